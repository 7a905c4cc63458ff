extension Authenticator {
    /// Lets a request through whose user has the rights that its path asks for.
    ///
    /// - Parameter authorization: the header; nil where the request has none.
    func authorize(_ authorization: String?, for rights: Rights) async throws(HTTPProblem) {
        switch await decide(authorization: authorization) {
        case .accepted(let account) where account.user.rights.isSuperset(of: rights): return
        case .accepted(let account):
            let names = Rights.named.filter { rights.contains($0.value) }.map(\.key)
            throw HTTPProblem(
                .forbidden, "the user '\(account.user.name)' may not do this",
                hint: "the users file gives the right: \(names.joined(separator: ", "))")
        case .refused:
            throw HTTPProblem(
                .unauthenticated, authorization == nil ? "a password is needed" : "the user or the password is wrong",
                hint: "send `Authorization: Basic` with user:password in base64, or `Authorization: Bearer` with user:password")
        case .busy: throw HTTPProblem(.unavailable, "too many passwords wait to be checked", hint: "try again later")
        }
    }
}
