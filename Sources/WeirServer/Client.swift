import NIOCore
import Synchronization

/// What the server knows of one connection. Owned by the connection's event loop.
final class Client {
    let id: UInt64
    let address: String
    let localAddress: String
    let connectedAt: ContinuousClock.Instant
    let loop: LoopState
    /// When bytes came last, for other connections to see.
    let lastRead: LastRead
    var version = RESPVersion.resp2
    var name = ""
    var libraryName = ""
    var libraryVersion = ""
    /// nil until the client has said who it is.
    var account: Authenticator.Account?
    /// What the last lookup selected, by the bytes that named it: clients ask for the same features again and again.
    var selected: Selected?

    struct Selected {
        let view: [UInt8]
        let features: [UInt8]
        let count: Int
        let selection: ViewSelection
    }

    init(id: UInt64, address: String, localAddress: String, loop: LoopState, account: Authenticator.Account?) {
        self.id = id
        self.address = address
        self.localAddress = localAddress
        self.loop = loop
        self.account = account
        lastRead = LastRead(.now())
        connectedAt = .now
    }

    /// What other connections may see of this one.
    var record: ClientRecord {
        ClientRecord(
            id: id, address: address, localAddress: localAddress, connectedAt: connectedAt, version: version, name: name,
            libraryName: libraryName, libraryVersion: libraryVersion, user: account?.user.name, lastRead: lastRead)
    }

    var isAuthenticated: Bool { account != nil }
}

/// A time that one event loop sets and any thread reads.
final class LastRead: Sendable {
    private let nanoseconds: Atomic<UInt64>

    init(_ time: NIODeadline) { nanoseconds = Atomic(time.uptimeNanoseconds) }

    var time: NIODeadline {
        get { .uptimeNanoseconds(nanoseconds.load(ordering: .relaxed)) }
        set { nanoseconds.store(newValue.uptimeNanoseconds, ordering: .relaxed) }
    }
}

struct ClientRecord: Sendable {
    let id: UInt64
    let address: String
    let localAddress: String
    let connectedAt: ContinuousClock.Instant
    let version: RESPVersion
    let name: String
    let libraryName: String
    let libraryVersion: String
    /// nil: none yet.
    let user: String?
    let lastRead: LastRead

    /// A line of `CLIENT LIST`, with every field that client libraries parse as a number; what the server does not count is 0.
    func line(command: String) -> String {
        let age = (ContinuousClock.now - connectedAt).components.seconds
        let idle = max(0, (NIODeadline.now() - lastRead.time).nanoseconds / 1_000_000_000)
        return
            "id=\(id) addr=\(address) laddr=\(localAddress) fd=-1 name=\(name) age=\(age) idle=\(idle) flags=N db=0 sub=0 psub=0 "
            + "ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r "
            + "cmd=\(command) user=\(user ?? "(none)") redir=-1 resp=\(version.rawValue) lib-name=\(libraryName) lib-ver=\(libraryVersion)"
    }
}
