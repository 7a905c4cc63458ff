/// The users of a server as a file lists them, one a line: a name, rights separated by commas (`read`, `push`, `admin`, `all`), and a
/// password's hash as `weir hash-password` prints it, or `nopass`.
///
/// ```
/// # name    rights      password
/// default   read        nopass
/// loader    push        $scrypt$ln=14,r=8,p=5$4WRVZtDJkL8cFY7crvkEVg$LkPSy3UcGS5oa+LHvI7Y5FRJPhY2tFpvP1Nk5Yt0pxw
/// ```
///
/// Empty lines and those that begin with `#` say nothing. A connection is the user `default` until it says another; where there is none,
/// or it has a password, a connection must say who it is first.
package struct UsersFile: Sendable {
    package struct Entry: Sendable, Hashable {
        package var user: User
        /// nil: any password does.
        package var password: PasswordHash?
    }

    package var entries: [Entry] = []

    /// - Throws: `ServerError` with the line, for what is no such file, for a user named twice, and where there is no user at all.
    package init(_ text: String, name: String) throws(ServerError) {
        var names: Set<String> = []
        // Not `split`: CR LF is one Character, and ends a line as LF does.
        for (index, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            let words = line.split(whereSeparator: \.isWhitespace)
            guard let first = words.first, !first.hasPrefix("#") else { continue }
            do throws(ServerError) {
                let entry = try UsersFile.entry(words)
                guard names.insert(entry.user.name).inserted else { throw ServerError("the user '\(entry.user.name)' is named twice") }
                entries.append(entry)
            } catch {
                throw ServerError("\(name), line \(index + 1): \(error)")
            }
        }
        guard !entries.isEmpty else { throw ServerError("\(name) names no users, so nobody could use the server") }
    }

    private static func entry(_ words: [Substring]) throws(ServerError) -> Entry {
        // What stands in the password's place is never shown.
        guard words.count == 3 else { throw ServerError("a name, rights and a password hash expected, not \(words.count) words") }
        guard words[0].utf8.allSatisfy({ (33...126).contains($0) && $0 != UInt8(ascii: ":") }), words[0].utf8.count <= 64 else {
            throw ServerError("a user's name is at most 64 visible ASCII characters without ':'")
        }
        var rights: Rights = []
        for word in words[1].split(separator: ",", omittingEmptySubsequences: false) {
            guard let right = Rights.named.first(where: { $0.key == word }) else {
                throw ServerError("unknown right '\(word)'; there are: \(Rights.named.map(\.key).joined(separator: ", "))")
            }
            rights.formUnion(right.value)
        }
        let user = User(name: String(words[0]), rights: rights)
        if words[2] == "nopass" { return Entry(user: user, password: nil) }
        guard let hash = PasswordHash(words[2]) else {
            throw ServerError("the password of '\(user.name)' is no hash as `weir hash-password` prints it, nor 'nopass'")
        }
        return Entry(user: user, password: hash)
    }
}
