#ifndef WEIR_CLMDB_SHIM_H
#define WEIR_CLMDB_SHIM_H

#include <lmdb.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/types.h>
#include <ucontext.h>
#include <unistd.h>

// A page of a damaged or cut-off file shows when it is touched: as SIGBUS or SIGSEGV at an address inside the file's mapping. The
// handler finds the mapping's file in /proc/self/maps and says which it is and what to do; all it calls is async-signal-safe. So does a
// fault at any address in the code of LMDB itself, which believes its pages. Any other fault goes on to the handler that was there before.

static inline struct sigaction *weir_previous(int signal) {
    static struct sigaction bus, segv;
    return signal == SIGBUS ? &bus : &segv;
}

static inline size_t weir_hex(const char *text, size_t end, size_t *position) {
    size_t value = 0;
    while (*position < end) {
        char c = text[*position];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) break;
        value = value << 4 | (size_t)digit;
        (*position)++;
    }
    return value;
}

static inline size_t weir_instruction(void *context) {
#if defined(__linux__) && defined(__x86_64__)
    return (size_t)((ucontext_t *)context)->uc_mcontext.gregs[16];  // REG_RIP
#elif defined(__linux__) && defined(__aarch64__)
    return (size_t)((ucontext_t *)context)->uc_mcontext.pc;
#else
    (void)context;
    return 0;
#endif
}

static inline int weir_contains(const char *text, size_t length, const char *part) {
    size_t size = strlen(part);
    for (size_t i = 0; i + size <= length; i++)
        if (memcmp(text + i, part, size) == 0) return 1;
    return 0;
}

static inline void weir_say_damaged(const char *path, size_t length) {
    static const char before[] = "error: the file ";
    static const char after[] =
        " of the online store is damaged; `weir rebuild` makes the online store anew from the history, nothing is lost\n";
    ssize_t ignored = write(2, before, sizeof before - 1);
    ignored = write(2, path, length);
    ignored = write(2, after, sizeof after - 1);
    (void)ignored;
    _exit(1);
}

static inline void weir_map_fault(int signal, siginfo_t *info, void *context) {
    size_t address = (size_t)info->si_addr;
    size_t instruction = weir_instruction(context);
    int isInLMDB = 0;
    // The last of the store's files; LMDB's code does not say which one it was reading.
    char some[1024];
    size_t someLength = 0;
    int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        char line[1024];
        size_t length = 0;
        char c;
        while (read(file, &c, 1) == 1) {
            if (c != '\n') {
                if (length < sizeof line) line[length++] = c;
                continue;
            }
            size_t position = 0;
            size_t start = weir_hex(line, length, &position);
            position++;
            size_t end = weir_hex(line, length, &position);
            static const char name[] = "data.mdb";
            size_t size = sizeof name - 1;
            if (length > size && memcmp(line + length - size, name, size) == 0) {
                while (position < length && line[position] != '/') position++;
                someLength = length - position;
                memcpy(some, line + position, someLength);
                if (address >= start && address < end) weir_say_damaged(some, someLength);
            }
            if (instruction >= start && instruction < end && weir_contains(line, length, "liblmdb")) isInLMDB = 1;
            length = 0;
        }
        close(file);
        if (isInLMDB && someLength > 0) weir_say_damaged(some, someLength);
    }
    // Returning runs into the fault again, under the handler that was there before.
    sigaction(signal, weir_previous(signal), NULL);
}

/// Makes faults on damaged files of the online store end the process with a message that names the file.
static inline void weir_guard_maps(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = weir_map_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGBUS, &action, weir_previous(SIGBUS));
    sigaction(SIGSEGV, &action, weir_previous(SIGSEGV));
}

static inline void weir_assert_failed(MDB_env *environment, const char *message) {
    const char *path = "";
    (void)message;
    mdb_env_get_path(environment, &path);
    weir_say_damaged(path, strlen(path));
}

/// The same for what LMDB itself finds wrong with its pages.
static inline void weir_guard_environment(MDB_env *environment) { mdb_env_set_assert(environment, weir_assert_failed); }

#endif
