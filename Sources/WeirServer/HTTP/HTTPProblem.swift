import Hummingbird
import NIOCore
import WeirRecords

/// Why an HTTP request is refused: the status, what is wrong, and what would be right. Answered as
/// `{"error": …, "hint": …}`.
package struct HTTPProblem: Error, Hashable, Sendable {
    package enum Kind: Int, Sendable {
        /// The body is no JSON.
        case malformed = 400
        /// Credentials are missing or wrong.
        case unauthenticated = 401
        /// The user has no right to this.
        case forbidden = 403
        /// There is no such path, view, feature or service.
        case notFound = 404
        case methodNotAllowed = 405
        case tooLarge = 413
        case unsupportedMediaType = 415
        /// The body is JSON, and not what is asked for.
        case invalid = 422
        /// The stores cannot answer.
        case failed = 500
        /// Not now; worth another try.
        case unavailable = 503
    }

    package var kind: Kind
    package var error: String
    package var hint: String?
    /// Of `methodNotAllowed`: the methods that are.
    package var allow: String?

    package init(_ kind: Kind, _ error: String, hint: String? = nil, allow: String? = nil) {
        self.kind = kind
        self.error = error
        self.hint = hint
        self.allow = allow
    }

    var response: Response {
        var body = Array(#"{"error":"#.utf8)
        JSONText.appendString(error, to: &body)
        if let hint {
            body += Array(#","hint":"#.utf8)
            JSONText.appendString(hint, to: &body)
        }
        body += Array("}\n".utf8)
        var response = Response(json: body, status: .init(code: kind.rawValue))
        if let allow { response.headers[.allow] = allow }
        if kind == .unauthenticated { response.headers[.wwwAuthenticate] = #"Basic realm="weir", charset="UTF-8""# }
        return response
    }
}

extension Response {
    init(json body: [UInt8], status: HTTPResponse.Status = .ok) {
        self.init(
            status: status, headers: [.contentType: "application/json"], body: ResponseBody(byteBuffer: ByteBuffer(bytes: body)))
    }

    init(text: String, status: HTTPResponse.Status = .ok, contentType: String = "text/plain; charset=utf-8") {
        self.init(
            status: status, headers: [.contentType: contentType], body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
    }
}
