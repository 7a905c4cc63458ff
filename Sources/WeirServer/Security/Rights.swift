/// What a user may do. The rights are independent: none includes another.
package struct Rights: OptionSet, Sendable, Hashable {
    package let rawValue: UInt8

    package init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Reading features, sessions and the catalog.
    package static let read = Rights(rawValue: 1)
    /// Sending events to streams and sessions, and dropping sessions.
    package static let push = Rights(rawValue: 2)
    /// What shows or ends others: clients, users, the server's state, metrics.
    package static let admin = Rights(rawValue: 4)
    package static let all: Rights = [.read, .push, .admin]

    /// As the users file names them.
    package static let named: KeyValuePairs<String, Rights> = ["read": .read, "push": .push, "admin": .admin, "all": .all]
}

/// Who a connection or a request acts for.
package struct User: Sendable, Hashable {
    /// The name of the user that a connection is before it says another, and of one who gives a password alone.
    package static let defaultName = "default"

    package var name: String
    package var rights: Rights

    package init(name: String, rights: Rights) {
        self.name = name
        self.rights = rights
    }
}
