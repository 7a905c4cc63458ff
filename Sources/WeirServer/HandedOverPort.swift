import FoundationEssentials
import NIOCore
import NIOPosix
import Synchronization

/// The lookups' port as a process leaves it to the program that it becomes (`execve`): sockets stay open across that, so that clients
/// see nothing but a pause.
package struct HandedOverPort: Codable, Sendable {
    /// A connection between two commands.
    package struct Connection: Codable, Sendable {
        /// The socket; whoever takes it closes it.
        package var descriptor: Int32
        /// 2 or 3.
        package var version: Int
        package var name: String
        package var libraryName: String
        package var libraryVersion: String
        /// nil for a client that has not said who it is.
        package var user: String?
        /// The beginning of a command whose end has not arrived.
        package var unread: Data
    }

    /// The socket that listens. Who connects meanwhile waits in its queue.
    package var listener: Int32
    package var connections: [Connection]
}

/// Tells a connection to answer what has arrived and to let go of its socket, for `ConnectionCollector`.
struct HandOverRequested: Sendable {
    let collector: ConnectionCollector
}

/// Takes the connections that event loops let go of.
final class ConnectionCollector: Sendable {
    private let taken = Mutex<[HandedOverPort.Connection]>([])

    func take(_ connection: HandedOverPort.Connection) { taken.withLock { $0.append(connection) } }

    var connections: [HandedOverPort.Connection] { taken.withLock { $0 } }
}

/// A further descriptor of a channel's socket, which stays open when the channel closes, and in the program that the process becomes.
/// nil where there is none: the limit of open files is reached. On the channel's event loop.
func keptDescriptor(of channel: any Channel) -> Int32? {
    let kept = try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) { keptDescriptor(of: $0) }
    return kept ?? nil
}

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

private func keptDescriptor(of handle: NIOBSDSocket.Handle) -> Int32? {
    let copy = fcntl(handle, F_DUPFD, 3)
    return copy >= 0 ? copy : nil
}
