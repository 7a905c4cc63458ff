import WeirAlgebra
import WeirRecords

/// A view with its event type: the plan, and how rows come from events.
struct TypedView<Source: Event>: Sendable {
    let plan: ViewPlan
    /// Appends the event's key to a column of texts.
    let key: @Sendable (Source, inout ColumnBuffer) -> Void
    let columns: [ColumnReader<Source>]
    let filters: [Filter<Source>]

    init<V: FeatureView>(_ view: V) throws(DefinitionError) where V.Source == Source {
        let nodes = try featureNodes(of: view)
        var columns: [ColumnReader<Source>] = []
        var filters: [Filter<Source>] = []
        var slots: [ViewPlan.Slot] = []
        var windows: [Window] = []
        var features: [ViewPlan.Feature] = []

        func index<T>(of item: T, in list: inout [T], equal: (T, T) -> Bool) -> Int {
            if let found = list.firstIndex(where: { equal($0, item) }) { return found }
            list.append(item)
            return list.count - 1
        }

        for (name, node) in nodes {
            let computation: ViewPlan.Computation
            let signature: String
            if let aggregate = node as? AggregateNode<Source> {
                let parts = aggregate.parts
                if let problem = parts.window.problem {
                    throw DefinitionError("\(V.name).\(name): the window is impossible: \(problem)")
                }
                let column = parts.column.map { index(of: $0, in: &columns) { $0.keyPath == $1.keyPath } }
                let filter = parts.filter.map { index(of: $0, in: &filters) { $0 === $1 } }
                let slot = index(
                    of: ViewPlan.Slot(accumulation: parts.aggregation.erasedAccumulator, column: column, filter: filter),
                    in: &slots
                ) { $0.column == $1.column && $0.filter == $1.filter && areEqual($0.accumulation, $1.accumulation) }
                let window = index(of: parts.window, in: &windows, equal: ==)
                computation = .aggregate(slot: slot, window: window, aggregation: parts.aggregation)
                signature =
                    "\(parts.aggregation.signature)(\(parts.column?.signature ?? "*")) over \(parts.window.signature)"
                    + (filter.map { " where #\($0)" } ?? "")
            } else if let derived = node as? DerivedNode {
                var inputs: [Int] = []
                for resolve in derived.inputs {
                    let input = resolve(view)
                    guard let position = nodes.firstIndex(where: { $0.node === input }) else {
                        throw DefinitionError("\(V.name).\(name): an input of a derived feature is no stored property of the view")
                    }
                    inputs.append(position)
                }
                computation = .derived(inputs: inputs, compute: derived.compute)
                signature = "derived(\(inputs.map { nodes[$0].name }.joined(separator: ", ")))"
            } else {
                throw DefinitionError("\(V.name).\(name): the feature is of another stream than the view")
            }
            features.append(.init(name: name, type: node.type, computation: computation, signature: signature))
        }
        if let label = windows.first(where: { $0.kind == .following }), let feature = windows.first(where: { $0.kind != .following }) {
            throw DefinitionError(
                "\(V.name): a view has labels (over \(label.signature)) or features (over \(feature.signature)), not both: move the labels to a view of their own"
            )
        }
        let isLabelView = windows.contains { $0.kind == .following }
        let ownTimeToLive = try V.timeToLive.map { duration throws(DefinitionError) in
            if isLabelView { throw DefinitionError("\(V.name): labels look ahead, and have no timeToLive; leave it away") }
            return try Self.timeToLive(duration, of: V.name, "its view's", windows: windows)
        }
        var timeToLive = ownTimeToLive
        if let duration = Source.timeToLive, !isLabelView {
            timeToLive = min(try Self.timeToLive(duration, of: V.name, "its stream's", windows: windows), timeToLive ?? .max)
        }
        if filters.count > 64 {
            throw DefinitionError("\(V.name): a view has at most 64 filters, this one has \(filters.count); share Filter values")
        }

        let (entity, joinKeys) = (V.Subject.name, V.Subject.joinKeys)
        let parts = V.Subject.ID.keyTypeName.split(separator: ":").count
        guard joinKeys.count == 1 || joinKeys.count == parts, Set(joinKeys).count == joinKeys.count, !joinKeys.contains("") else {
            throw DefinitionError(
                "entity \(entity): the join keys are \(joinKeys.joined(separator: ", ")); give one name, or one for each of the key's \(parts) parts"
            )
        }

        self.columns = columns
        self.filters = filters
        key = { event, keys in
            if let key = V.key(of: event) { append(key, to: &keys) } else { keys.appendNull() }
        }
        plan = ViewPlan(
            name: V.storedName, baseName: V.name, revision: V.revision, entity: entity, joinKeys: joinKeys,
            keyTypeName: V.Subject.ID.keyTypeName, stream: Source.stream,
            columns: columns.map { .init(signature: $0.signature, type: $0.type) }, filterCount: filters.count,
            slots: slots, windows: windows, features: features, timeToLive: timeToLive, ownTimeToLive: ownTimeToLive,
            closedWindows: try V.closedWindows.map { policy throws(DefinitionError) in
                try ClosedWindowPlan(policy, view: V.storedName, windows: windows)
            }, updatesTopic: V.updatesTopic,
            keyForm: V.Subject.ID.self == String.self
                ? .text : V.Subject.ID.self == Int.self || V.Subject.ID.self == Int64.self ? .integer : .other,
            canonicalKey: { V.Subject.ID(keyText: $0)?.keyText })
    }

    /// In microseconds.
    ///
    /// - Throws: where a window says that it holds more than can live.
    private static func timeToLive(
        _ duration: Duration, of view: String, _ whose: String, windows: [Window]
    ) throws(DefinitionError) -> Int64 {
        guard let timeToLive = duration.wholeMicroseconds, timeToLive > 0 else {
            throw DefinitionError("\(view): \(whose) timeToLive must be a whole number of microseconds, and positive")
        }
        for window in windows {
            guard let reach = window.kind == .session ? window.length : window.reach, reach > timeToLive else { continue }
            throw DefinitionError(
                """
                \(view): the window \(window.signature) counts events of up to \(reach) µs before, \(whose) time to live is \
                \(timeToLive) µs: make the window shorter, or timeToLive as long at least
                """)
        }
        return timeToLive
    }

    /// Reads keys, columns and filters of a batch of events.
    func rows(of events: [Source]) -> ViewRows {
        var rows = ViewRows(columns: columns.map { ColumnBuffer(type: $0.type) })
        rows.filterBits.reserveCapacity(events.count)
        rows.keys.reserve(events.count)
        for index in columns.indices { rows.columns[index].reserve(events.count) }
        events.withUnsafeBufferPointer { events in
            guard let base = events.baseAddress else { return }
            for row in events.indices {
                key(events[row], &rows.keys)
                var bits: UInt64 = 0
                var index = 0
                while index < filters.count {
                    if filters[index].accepts(events[row]) { bits |= 1 << UInt64(index) }
                    index += 1
                }
                rows.filterBits.append(bits)
            }
            rows.keyHashes.reserveCapacity(events.count)
            rows.keys.textBytes.withUnsafeBytes { bytes in
                for row in events.indices {
                    rows.keyHashes.append(StableHash.xxh64(UnsafeRawBufferPointer(rebasing: bytes[rows.keys.textRange(row)])))
                }
            }
            for (index, column) in columns.enumerated() {
                for row in events.indices { column.append(base + row, &rows.columns[index]) }
            }
        }
        return rows
    }
}

/// Integers, which most keys are, without a `String` of each.
@inline(__always)
private func append<K: EntityKey>(_ key: K, to keys: inout ColumnBuffer) {
    if K.self == Int.self {
        keys.append(decimal: Int64(unsafeBitCast(key, to: Int.self)))
    } else if K.self == Int64.self {
        keys.append(decimal: unsafeBitCast(key, to: Int64.self))
    } else {
        keys.append(text: key.keyText)
    }
}

extension Aggregation {
    fileprivate var erasedAccumulator: any Accumulation { accumulator }
}

private func areEqual(_ a: any Accumulation, _ b: any Accumulation) -> Bool {
    func open<A: Accumulation>(_ a: A) -> Bool { (b as? A) == a }
    return open(a)
}

/// The features that a view's properties hold, with their wire names, in the order of their definition.
private func featureNodes(of view: any FeatureView) throws(DefinitionError) -> [(name: String, node: any FeatureNode)] {
    let viewName = type(of: view).name
    var nodes: [(name: String, node: any FeatureNode)] = []
    for child in Mirror(reflecting: view).children {
        guard let label = child.label, let property = child.value as? any FeatureProperty else { continue }
        let node: any FeatureNode = property.node
        let name = node.explicitName ?? wireName(label)
        guard isWireName(name) else {
            throw DefinitionError("\(viewName).\(label): '\(name)' is no wire name; use lower-case letters, digits and _")
        }
        if nodes.contains(where: { $0.name == name }) {
            throw DefinitionError("\(viewName).\(label): the view has two features named '\(name)'; give one another name with .named")
        }
        nodes.append((name, node))
    }
    if nodes.isEmpty { throw DefinitionError("\(viewName): the view has no features; define them as stored properties with Aggregate") }
    return nodes
}

func isWireName(_ name: String) -> Bool {
    guard let first = name.utf8.first, first == UInt8(ascii: "_") || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(first)
    else { return false }
    return name.utf8.allSatisfy {
        $0 == UInt8(ascii: "_") || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0)
            || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
    }
}
