/// What the server knows of one connection. Owned by the connection's event loop.
final class Client {
    let id: UInt64
    let address: String
    let localAddress: String
    let connectedAt: ContinuousClock.Instant
    let executor: Int
    var version = RESPVersion.resp2
    var name = ""
    var libraryName = ""
    var libraryVersion = ""
    var isAuthenticated: Bool
    /// What the last lookup selected, by the bytes that named it: clients ask for the same features again and again.
    var selected: Selected?

    struct Selected {
        let view: [UInt8]
        let features: [UInt8]
        let count: Int
        let selection: ViewSelection
    }

    init(id: UInt64, address: String, localAddress: String, executor: Int, isAuthenticated: Bool) {
        self.id = id
        self.address = address
        self.localAddress = localAddress
        self.executor = executor
        self.isAuthenticated = isAuthenticated
        connectedAt = .now
    }

    /// What other connections may see of this one.
    var record: ClientRecord {
        ClientRecord(
            id: id, address: address, localAddress: localAddress, connectedAt: connectedAt, version: version, name: name,
            libraryName: libraryName, libraryVersion: libraryVersion)
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

    /// A line of `CLIENT LIST`, with every field that client libraries parse as a number; what the server does not count is 0.
    func line(command: String) -> String {
        let age = (ContinuousClock.now - connectedAt).components.seconds
        return
            "id=\(id) addr=\(address) laddr=\(localAddress) fd=-1 name=\(name) age=\(age) idle=0 flags=N db=0 sub=0 psub=0 "
            + "ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r "
            + "cmd=\(command) user=default redir=-1 resp=\(version.rawValue) lib-name=\(libraryName) lib-ver=\(libraryVersion)"
    }
}
