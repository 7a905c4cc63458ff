import WeirAlgebra
import WeirRecords

/// What answers the requests of the HTTP port. Called on any thread; `metrics` and `readiness` where they may block.
package protocol HTTPBackend: Sendable {
    /// `POST /get-online-features`: all rows in one snapshot.
    func onlineFeatures(_ request: OnlineFeaturesRequest) throws(HTTPProblem) -> OnlineFeatures

    /// `GET /features`: services, views and streams.
    func catalog() -> ReplyValue

    /// `GET /metrics`, beside the HTTP port's own.
    func metrics() -> [MetricFamily]

    /// `GET /readyz`.
    func readiness() -> ReadyState
}

/// Features of the rows of a request.
package struct OnlineFeatures: Sendable {
    /// A feature's place: in which group, and where in a row of it.
    package struct Column: Sendable {
        package var name: String
        package var group: Int
        package var value: Int
        /// In the row's event times; nil for what is computed from several sources.
        package var eventTime: Int?

        package init(name: String, group: Int, value: Int, eventTime: Int?) {
            self.name = name
            self.group = group
            self.value = value
            self.eventTime = eventTime
        }
    }

    /// What one view or service has for the rows of the request, row after row.
    package struct Group: Sendable {
        package let resultsPerRow: Int
        package let eventTimesPerRow: Int
        package var results: [FeatureResult] = []
        /// The latest events that could count; nil where there is none.
        package var eventTimes: [EventTime?] = []

        package init(resultsPerRow: Int, eventTimesPerRow: Int, rows: Int) {
            self.resultsPerRow = resultsPerRow
            self.eventTimesPerRow = eventTimesPerRow
            results.reserveCapacity(resultsPerRow * rows)
            eventTimes.reserveCapacity(eventTimesPerRow * rows)
        }
    }

    /// Columns of the request that come back, ahead of the features: the entities'.
    package var echoed: [Int]
    package var columns: [Column]
    package var groups: [Group]
    /// For `include_feature_view_version_metadata`.
    package var views: [String]

    package init(echoed: [Int], columns: [Column], groups: [Group], views: [String]) {
        self.echoed = echoed
        self.columns = columns
        self.groups = groups
        self.views = views
    }

    /// The answer in the shape of Feast's feature server: a vector of values, statuses and event times for each column, in the order of
    /// the names. Statuses are Feast's, besides `LIMIT` and `OVERFLOW`, which its SDK shows as INVALID.
    package func json(for request: OnlineFeaturesRequest) -> [UInt8] {
        let rows = request.rowCount
        var json: [UInt8] = []
        json.reserveCapacity(256 + (echoed.count + columns.count) * (80 + rows * 64))
        json.append("{\"metadata\":{\"feature_names\":[")
        for (index, column) in echoed.enumerated() {
            if index > 0 { json.append(UInt8(ascii: ",")) }
            JSONText.appendString(request.columns[column].name, to: &json)
        }
        for (index, column) in columns.enumerated() {
            if index > 0 || !echoed.isEmpty { json.append(UInt8(ascii: ",")) }
            JSONText.appendString(column.name, to: &json)
        }
        if request.includesVersions {
            json.append("],\"feature_view_metadata\":[")
            for (index, view) in views.enumerated() {
                json.append(index > 0 ? ",{\"name\":" : "{\"name\":")
                JSONText.appendString(view, to: &json)
                json.append("}")
            }
        }
        json.append("]},\"results\":[")
        for (index, column) in echoed.enumerated() {
            if index > 0 { json.append(UInt8(ascii: ",")) }
            append(request.columns[column], of: request.body, to: &json)
        }
        let times = groups.map { EventTimeTexts($0) }
        for (index, column) in columns.enumerated() {
            if index > 0 || !echoed.isEmpty { json.append(UInt8(ascii: ",")) }
            append(column, rows: rows, times[column.group], to: &json)
        }
        json.append("]}\n")
        return json
    }

    private static let noTime: StaticString = "\"1970-01-01T00:00:00Z\""

    private func append(_ column: OnlineFeaturesRequest.Column, of body: [UInt8], to json: inout [UInt8]) {
        func isNull(_ value: Range<Int>) -> Bool { body[value.lowerBound] == UInt8(ascii: "n") }
        json.append("{\"values\":[")
        for (row, value) in column.values.enumerated() {
            if row > 0 { json.append(UInt8(ascii: ",")) }
            json.append(contentsOf: body[value])
        }
        json.append("],\"statuses\":[")
        for (row, value) in column.values.enumerated() {
            if row > 0 { json.append(UInt8(ascii: ",")) }
            json.append(isNull(value) ? "\"NULL_VALUE\"" : "\"PRESENT\"")
        }
        json.append("],\"event_timestamps\":[")
        for row in column.values.indices {
            if row > 0 { json.append(UInt8(ascii: ",")) }
            json.append(Self.noTime)
        }
        json.append("]}")
    }

    private func append(_ column: Column, rows: Int, _ times: EventTimeTexts, to json: inout [UInt8]) {
        let group = groups[column.group]
        json.append("{\"values\":[")
        for row in 0..<rows {
            if row > 0 { json.append(UInt8(ascii: ",")) }
            let value = group.results[row * group.resultsPerRow + column.value].value
            if Self.isEmpty(value) { json.append("null") } else { value.appendJSON(to: &json) }
        }
        json.append("],\"statuses\":[")
        for row in 0..<rows {
            if row > 0 { json.append(UInt8(ascii: ",")) }
            let result = group.results[row * group.resultsPerRow + column.value]
            switch result.status {
            case .present: json.append(Self.isEmpty(result.value) ? "\"NULL_VALUE\"" : "\"PRESENT\"")
            case .nullValue: json.append("\"NULL_VALUE\"")
            case .notFound: json.append("\"NOT_FOUND\"")
            case .limit: json.append("\"LIMIT\"")
            case .overflow: json.append("\"OVERFLOW\"")
            }
        }
        json.append("],\"event_timestamps\":[")
        for row in 0..<rows {
            if row > 0 { json.append(UInt8(ascii: ",")) }
            if let place = column.eventTime, let text = times.text(row, place) {
                json.append(contentsOf: text)
            } else {
                json.append(Self.noTime)
            }
        }
        json.append("]}")
    }

    /// Feast's SDK cannot read an empty list or map, since it infers types from elements.
    private static func isEmpty(_ value: FeatureValue) -> Bool {
        switch value {
        case .list(let elements): elements.isEmpty
        case .map(let entries): entries.isEmpty
        default: false
        }
    }
}

/// Event times as JSON strings, each written once for all features that share it.
private struct EventTimeTexts {
    private var bytes: [UInt8] = []
    private var ends: [Int] = []
    private var places = 0

    init(_ group: OnlineFeatures.Group) {
        places = group.eventTimesPerRow
        bytes.reserveCapacity(group.eventTimes.count * 30)
        ends.reserveCapacity(group.eventTimes.count)
        for time in group.eventTimes {
            if let time {
                bytes.append(UInt8(ascii: "\""))
                TimeText.append(time, decimalsStep: 3, to: &bytes)
                bytes.append(UInt8(ascii: "\""))
            }
            ends.append(bytes.count)
        }
    }

    /// nil where there is no event.
    func text(_ row: Int, _ place: Int) -> ArraySlice<UInt8>? {
        let index = row * places + place
        let start = index > 0 ? ends[index - 1] : 0
        return start == ends[index] ? nil : bytes[start..<ends[index]]
    }
}

extension [UInt8] {
    fileprivate mutating func append(_ text: StaticString) {
        append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
}
