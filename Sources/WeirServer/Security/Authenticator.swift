import Crypto
import Dispatch
import FoundationEssentials
import Synchronization

/// Says who gave a password: the same for both ports.
///
/// A password that was right once is remembered by its keyed hash, so that clients that connect often wait for the slow hash once. All
/// comparisons are of hashes: neither their time nor the password's length tells anything.
package final class Authenticator: Sendable {
    package enum Decision: Sendable, Hashable {
        case accepted(Account)
        case refused
        /// Too many passwords wait to be checked.
        case busy
    }

    /// A user, and what they were known by: when that changes their connections end.
    package struct Account: Sendable, Hashable {
        package let user: User
        fileprivate let secret: Secret
    }

    fileprivate enum Secret: Sendable, Hashable {
        /// Any password does.
        case none
        /// The password's hash under the process's key.
        case digest([UInt8])
        case hash(PasswordHash)
    }

    private struct State {
        var accounts: [String: Account]
        /// For users with a slow hash: the keyed hash of the password that it is of.
        var verified: [String: [UInt8]] = [:]
        var checksWaiting = 0
    }

    /// Passwords that wait to be checked: each takes the checking thread some 0.2 s.
    private static let checksWaitingMax = 64

    private let key: SymmetricKey
    private let state: Mutex<State>
    private let checks = DispatchQueue(label: "weir.passwords")

    /// Everybody may do everything, as long as no password is given.
    package init(password: String? = nil) {
        let key = SymmetricKey(size: .bits256)
        self.key = key
        let user = User(name: User.defaultName, rights: .all)
        let secret: Secret = password.map { .digest(Authenticator.digest(Array($0.utf8), key)) } ?? .none
        state = Mutex(State(accounts: [user.name: Account(user: user, secret: secret)]))
    }

    package init(_ file: UsersFile) {
        key = SymmetricKey(size: .bits256)
        state = Mutex(State(accounts: Authenticator.accounts(file)))
    }

    /// Takes other users from now on.
    package func replace(_ file: UsersFile) {
        let accounts = Authenticator.accounts(file)
        state.withLock { state in
            for name in state.verified.keys where accounts[name]?.secret != state.accounts[name]?.secret { state.verified[name] = nil }
            state.accounts = accounts
        }
    }

    private static func accounts(_ file: UsersFile) -> [String: Account] {
        var accounts: [String: Account] = [:]
        for entry in file.entries {
            accounts[entry.user.name] = Account(user: entry.user, secret: entry.password.map { .hash($0) } ?? .none)
        }
        return accounts
    }

    /// Who acts without giving a password; nil where one must be given.
    package var anonymous: Account? {
        state.withLock { $0.accounts[User.defaultName] }.flatMap { $0.secret == .none ? $0 : nil }
    }

    /// Whether no password keeps anybody from doing everything.
    package var isOpen: Bool { anonymous?.user.rights == .all }

    /// The account as it is now; nil where its user is gone or has another password.
    package func current(_ account: Account) -> Account? {
        state.withLock { $0.accounts[account.user.name] }.flatMap { $0.secret == account.secret ? $0 : nil }
    }

    /// Of a client that an earlier program of this process has let in.
    func account(named name: String) -> Account? { state.withLock { $0.accounts[name] } }

    package func hasUser(_ name: String) -> Bool { state.withLock { $0.accounts[name] != nil } }

    /// Decides, where that takes no slow hash; nil where it does.
    package func decideNow(user: String, password: [UInt8]) -> Decision? {
        let (account, verified, hasHashes) = state.withLock { state in
            (
                state.accounts[user], state.verified[user],
                state.accounts.values.contains { if case .hash = $0.secret { true } else { false } }
            )
        }
        let digest = Authenticator.digest(password, key)
        switch account?.secret {
        case .some(.none): return account.map { .accepted($0) }
        case .digest(let expected): return isEqualInConstantTime(digest, expected) ? account.map { .accepted($0) } : .refused
        case .hash:
            guard let verified, isEqualInConstantTime(digest, verified) else { return nil }
            return account.map { .accepted($0) }
        // Unknown users cost the same as known ones, or their names could be found out.
        case nil: return hasHashes ? nil : .refused
        }
    }

    /// Decides; calls `completion` once, at once or on a thread of its own.
    package func decide(user: String, password: [UInt8], completion: @escaping @Sendable (Decision) -> Void) {
        if let decision = decideNow(user: user, password: password) { return completion(decision) }
        let isFull = state.withLock { state in
            if state.checksWaiting >= Authenticator.checksWaitingMax { return true }
            state.checksWaiting += 1
            return false
        }
        if isFull { return completion(.busy) }
        checks.async { [self] in
            let decision = check(user: user, password: password)
            state.withLock { $0.checksWaiting -= 1 }
            completion(decision)
        }
    }

    private func check(user: String, password: [UInt8]) -> Decision {
        // What waited before may have been the same password.
        let (account, other) = state.withLock { state in
            (
                state.accounts[user],
                state.accounts.values.lazy.compactMap { if case .hash(let hash) = $0.secret { hash } else { nil } }.first
            )
        }
        guard let account else {
            _ = other?.matches(password)
            return .refused
        }
        if let decision = decideNow(user: user, password: password) { return decision }
        guard case .hash(let hash) = account.secret, hash.matches(password) else { return .refused }
        let digest = Authenticator.digest(password, key)
        state.withLock { if $0.accounts[user] == account { $0.verified[user] = digest } }
        return .accepted(account)
    }

    /// Decides on HTTP's `Authorization` header: `Basic`, or `Bearer` with `user:password` or the default user's password. Without one it is
    /// the user who needs no password, if there is one.
    package func decide(authorization: String?) async -> Decision {
        guard let authorization else { return anonymous.map { .accepted($0) } ?? .refused }
        guard let (user, password) = credentials(authorization) else { return .refused }
        return await withCheckedContinuation { continuation in
            decide(user: user, password: password) { continuation.resume(returning: $0) }
        }
    }

    private func credentials(_ authorization: String) -> (user: String, password: [UInt8])? {
        let parts = authorization.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: true)
        guard parts.count == 2 else { return nil }
        let text = parts[1].utf8.filter { $0 != UInt8(ascii: " ") }
        switch parts[0].lowercased() {
        case "basic":
            guard let decoded = Data(base64Encoded: Data(text)).map({ [UInt8]($0) }),
                let colon = decoded.firstIndex(of: UInt8(ascii: ":")),
                let user = String(validating: decoded[..<colon], as: UTF8.self)
            else { return nil }
            return (user.isEmpty ? User.defaultName : user, Array(decoded[(colon + 1)...]))
        case "bearer":
            if let colon = text.firstIndex(of: UInt8(ascii: ":")), let user = String(validating: text[..<colon], as: UTF8.self),
                hasUser(user)
            {
                return (user, Array(text[(colon + 1)...]))
            }
            return (User.defaultName, Array(text))
        default: return nil
        }
    }

    private static func digest(_ password: [UInt8], _ key: SymmetricKey) -> [UInt8] {
        [UInt8](HMAC<SHA256>.authenticationCode(for: password, using: key))
    }
}
