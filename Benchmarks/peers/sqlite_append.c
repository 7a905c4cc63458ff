/* What plain appends cost: rows of the history's table of the stream `orders` (Sources/WeirHistory/StreamTable.swift), as synced.
 *
 *     gcc -O2 -o sqlite_append sqlite_append.c -lsqlite3
 *     ./sqlite_append ROWS DB
 *
 * DB must not exist. Nothing is read or parsed, no row is checked, there is no index, and nothing is put in another order. Prints JSON;
 * the seconds include closing the database, which copies what is left in the write-ahead log.
 */
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { rows_per_transaction = 24576, customers = 100000 };

static sqlite3 *db;

static void check(int code) {
    if (code == SQLITE_OK || code == SQLITE_DONE) return;
    fprintf(stderr, "sqlite_append: %s\n", sqlite3_errmsg(db));
    exit(1);
}

static void run(const char *sql) { check(sqlite3_exec(db, sql, NULL, NULL, NULL)); }

static double seconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t next_random(void) {
    static uint64_t state = 1;
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

/* The customer's number as text: where it begins in the 20 bytes. */
static const char *decimal(int64_t number, char text[20]) {
    char *first = text + 20;
    do *--first = '0' + number % 10;
    while (number /= 10);
    return first;
}

int main(int argc, char **argv) {
    char *end = "";
    int64_t rows = argc == 3 ? strtoll(argv[1], &end, 10) : 0;
    if (rows <= 0 || *end) {
        fprintf(stderr, "usage: sqlite_append ROWS DB\n");
        return 2;
    }
    if (access(argv[2], F_OK) == 0) {
        fprintf(stderr, "sqlite_append: %s exists\n", argv[2]);
        return 2;
    }
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    check(sqlite3_open_v2(argv[2], &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL));
    /* As Sources/WeirHistory/HistoryDatabase.swift sets them. */
    run("PRAGMA journal_mode = WAL");
    run("PRAGMA synchronous = FULL");
    run("PRAGMA cache_size = -16384");
    run("PRAGMA wal_autocheckpoint = 4000");
    run("CREATE TABLE orders (_seq INTEGER PRIMARY KEY, _ingest_time INTEGER NOT NULL, _source INTEGER NOT NULL, "
        "_partition INTEGER NOT NULL, _offset INTEGER NOT NULL, _key_hash INTEGER NOT NULL, \"_key_customer_spend\" TEXT, "
        "\"customer\" INTEGER NOT NULL, \"event_time\" INTEGER NOT NULL, \"price\" REAL NOT NULL) STRICT");
    sqlite3_stmt *insert;
    check(sqlite3_prepare_v3(
        db, "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", -1, SQLITE_PREPARE_PERSISTENT, &insert, NULL));

    /* Microseconds; orders come evenly over 35 days and are up to five seconds out of order. */
    const int64_t start = INT64_C(1767225600000000), step = INT64_C(35) * 86400 * 1000000 / rows;
    int64_t ingest_time = start + INT64_C(40) * 86400 * 1000000, offset = 0;
    char text[20];
    for (int64_t row = 0; row < rows; row++) {
        if (row % rows_per_transaction == 0) {
            if (row > 0) run("COMMIT");
            run("BEGIN IMMEDIATE");
            ingest_time += 20000;
        }
        uint64_t random = next_random();
        double uniform = (random >> 11) / 9007199254740992.0;
        int64_t customer = uniform * uniform * uniform * customers;
        const char *key = decimal(customer, text);
        sqlite3_bind_int64(insert, 1, row + 1);
        sqlite3_bind_int64(insert, 2, ingest_time);
        sqlite3_bind_int64(insert, 3, 1);
        sqlite3_bind_int64(insert, 4, 0);
        sqlite3_bind_int64(insert, 5, offset += 60);
        sqlite3_bind_int64(insert, 6, (int64_t)((customer + 1) * 0x9e3779b97f4a7c15));
        sqlite3_bind_text(insert, 7, key, text + 20 - key, SQLITE_STATIC);
        sqlite3_bind_int64(insert, 8, customer);
        sqlite3_bind_int64(insert, 9, start + row * step + (int64_t)(random % 5000) * 1000);
        sqlite3_bind_double(insert, 10, (1 + (random >> 20) % 20000) / 100.0);
        check(sqlite3_step(insert));
        check(sqlite3_reset(insert));
    }
    run("COMMIT");
    check(sqlite3_finalize(insert));
    check(sqlite3_close(db));
    printf("{\"rows\":%" PRId64 ",\"wall_seconds\":%.6f,\"cpu_seconds\":%.6f}\n", rows, seconds(CLOCK_MONOTONIC) - wall,
        seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}
