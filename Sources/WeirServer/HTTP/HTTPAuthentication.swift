import Foundation

/// What a request proves its sender by.
package enum HTTPCredentials: Sendable, Hashable {
    case basic(user: String, password: String)
    case bearer(String)

    /// nil for another scheme, or a header that does not hold what its scheme asks for.
    init?(authorization: String) {
        let parts = authorization.split(separator: " ", maxSplits: 1)
        guard parts.count == 2 else { return nil }
        switch parts[0].lowercased() {
        case "bearer": self = .bearer(String(parts[1]))
        case "basic":
            guard let data = Data(base64Encoded: String(parts[1])), let text = String(data: data, encoding: .utf8),
                let colon = text.firstIndex(of: ":")
            else { return nil }
            self = .basic(user: String(text[..<colon]), password: String(text[text.index(after: colon)...]))
        default: return nil
        }
    }
}

/// What an HTTP path asks its caller to be allowed.
package enum HTTPRight: Sendable, Hashable {
    /// Values of features, and which there are.
    case readFeatures
    /// Counters and sizes.
    case readMetrics
}

/// Decides who may do what over HTTP: the one place that every request but those for `/healthz` and `/readyz` passes.
package protocol HTTPAuthenticator: Sendable {
    /// - Parameter credentials: nil where the request brings none.
    /// - Throws: `unauthenticated` or `forbidden`.
    func authorize(_ credentials: HTTPCredentials?, for right: HTTPRight) throws(HTTPProblem)
}

/// One password, the same that `AUTH` takes: with Basic for the user `default`, or as a Bearer token.
package struct PasswordAuthenticator: HTTPAuthenticator {
    private let password: String

    package init(password: String) {
        self.password = password
    }

    package func authorize(_ credentials: HTTPCredentials?, for right: HTTPRight) throws(HTTPProblem) {
        let isRight =
            switch credentials {
            case nil: false
            case .basic("default", let given)?, .bearer(let given)?: isEqual(given)
            case .basic?: false
            }
        guard isRight else {
            throw HTTPProblem(
                .unauthenticated, credentials == nil ? "a password is needed" : "the user or the password is wrong",
                hint: "send it as `Authorization: Basic` for the user 'default', or as `Authorization: Bearer`")
        }
    }

    /// Takes the same time wherever the difference is.
    private func isEqual(_ given: String) -> Bool {
        let (given, password) = (Array(given.utf8), Array(password.utf8))
        var difference: UInt8 = given.count == password.count ? 0 : 1
        for index in given.indices { difference |= given[index] ^ (password.isEmpty ? 0 : password[index % password.count]) }
        return difference == 0
    }
}
