/// The name that a Swift property has in JSON, CSV, history and on the wire: `avgPrice28d` → `avg_price_28d`.
///
/// Words begin at capitals (`userID` → `user_id`, `HTTPServer` → `http_server`), and a run of digits begins a word where a unit
/// of time follows it (`spend1h` → `spend_1h`, but `p90Price` → `p90_price`). Names that are snake_case already stay.
public func wireName(_ swiftName: String) -> String {
    let name = Array(swiftName.utf8)
    var wire: [UInt8] = []
    func isUpper(_ i: Int) -> Bool { i < name.count && (65...90).contains(name[i]) }
    func isLower(_ i: Int) -> Bool { i < name.count && (97...122).contains(name[i]) }
    func isDigit(_ i: Int) -> Bool { i >= 0 && i < name.count && (48...57).contains(name[i]) }
    for i in name.indices {
        let byte = name[i]
        if let last = wire.last, last != UInt8(ascii: "_"), byte != UInt8(ascii: "_") {
            let startsWord: Bool
            if isUpper(i) {
                startsWord = !isUpper(i - 1) || isLower(i + 1)
            } else if isDigit(i) {
                startsWord = !isDigit(i - 1) && unitFollows(name, i)
            } else {
                startsWord = false
            }
            if startsWord { wire.append(UInt8(ascii: "_")) }
        }
        wire.append(isUpper(i) ? byte + 32 : byte)
    }
    return String(decoding: wire, as: UTF8.self)
}

private let units: Set<String> = ["us", "ms", "s", "m", "min", "h", "d", "w", "mo", "y"]

/// Whether the run of digits at `start` is followed by a unit that ends the word.
private func unitFollows(_ name: [UInt8], _ start: Int) -> Bool {
    var i = start
    while i < name.count, (48...57).contains(name[i]) { i += 1 }
    let unitStart = i
    while i < name.count, (97...122).contains(name[i]) { i += 1 }
    guard units.contains(String(decoding: name[unitStart..<i], as: UTF8.self)) else { return false }
    return i == name.count || name[i] == UInt8(ascii: "_") || (65...90).contains(name[i])
}
