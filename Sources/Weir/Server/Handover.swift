import Foundation
import WeirAlgebra
import WeirLookup
import WeirPipeline
import WeirServer

/// What a server leaves to the program that its process becomes: `weir apply` gives it new definitions without a lookup that fails.
///
/// The process stays (its number, its arguments, its environment, whoever watches over it), its program changes (`execve`). Sockets, the
/// writer's lock and this value, in a file without a name, go along as open files.
struct Handover: Codable {
    /// nil: the port is bound anew.
    var port: HandedOverPort?
    /// Bound anew; the number, where any free one was taken.
    var httpPort: Int
    var sessions: [SessionStore.HandedOver]
    var lock: Int32
    /// The program that hands over, as an open file, which outlasts that another takes its place under its name; and its name.
    private var program: Int32
    private var programName: String

    init(port: HandedOverPort?, httpPort: Int, sessions: [SessionStore.HandedOver], lock: Int32) throws {
        self.port = port
        self.httpPort = httpPort
        self.sessions = sessions
        self.lock = lock
        program = open("/proc/self/exe", O_RDONLY)
        programName = CommandLine.arguments[0]
        guard program >= 0 else { throw CommandFailure("cannot open this executable: \(String(cString: strerror(errno)))") }
    }

    private static let variable = "WEIR_HANDOVER"

    /// What the program that this process was before has left; nil where there was none. To be called once, at start.
    static func take() throws -> Handover? {
        guard let text = ProcessInfo.processInfo.environment[variable], let descriptor = Int32(text) else { return nil }
        unsetenv(variable)
        defer { close(descriptor) }
        guard lseek(descriptor, 0, SEEK_SET) == 0 else { throw CommandFailure("\(variable) names no file: \(text)") }
        let file = FileHandle(fileDescriptor: descriptor, closeOnDealloc: false)
        let handover = try JSONDecoder().decode(Handover.self, from: file.readToEnd() ?? Data())
        for kept in handover.descriptors { _ = fcntl(kept, F_SETFD, FD_CLOEXEC) }
        return handover
    }

    private var descriptors: [Int32] { [lock, program] + (port.map { [$0.listener] + $0.connections.map(\.descriptor) } ?? []) }

    /// Makes this process the program again that has handed over, where the other one cannot go on: better the old one than none.
    func goBack(_ error: any Error, in directory: DataDirectory) throws {
        report("warning: \(error); going back to the program before")
        try? HandoverRequest(executable: programName, refusal: "\(error)").write(to: directory)
        try become("/proc/self/fd/\(program)", name: programName, in: directory)
    }

    /// Makes this process another program, with the same arguments. Returns only where that fails.
    ///
    /// - Parameters:
    ///   - name: the program's own; nil for its path.
    ///   - directory: where the file is made that this value goes along in; the temporary directory where that is full.
    func become(_ executable: String, name: String? = nil, in directory: DataDirectory) throws {
        do { try become(executable, name: name, stateIn: directory.path) } catch {
            try become(executable, name: name, stateIn: NSTemporaryDirectory())
        }
    }

    private func become(_ executable: String, name: String?, stateIn directory: String) throws {
        let path = directory + "/weir-handover-\(getpid())"
        unlink(path)
        let state = open(path, O_RDWR | O_CREAT | O_EXCL, 0o600)
        guard state >= 0 else { throw CommandFailure("cannot write \(path): \(String(cString: strerror(errno)))") }
        unlink(path)
        try FileHandle(fileDescriptor: state, closeOnDealloc: false).write(contentsOf: JSONEncoder().encode(self))
        // Files of libraries, which may not close by themselves.
        let kept = Set(descriptors + [state])
        for name in (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? [] {
            guard let descriptor = Int32(name), descriptor > 2 else { continue }
            let flags = fcntl(descriptor, F_GETFD)
            if flags >= 0 { _ = fcntl(descriptor, F_SETFD, kept.contains(descriptor) ? flags & ~FD_CLOEXEC : flags | FD_CLOEXEC) }
        }
        setenv(Self.variable, String(state), 1)
        var arguments = ([name ?? executable] + CommandLine.arguments.dropFirst()).map { strdup($0) } + [nil]
        // Signals that wait for `sigwait` here are blocked for the next program, too, which blocks them itself.
        execv(executable, &arguments)
        let failure = String(cString: strerror(errno))
        unsetenv(Self.variable)
        throw CommandFailure("cannot run \(executable): \(failure)")
    }
}
