import WeirDefinitions
import WeirEngine
import WeirHistory
import WeirOnlineStore

extension DefinitionSamples {
    /// What the code makes of events of the history.
    ///
    /// - Parameter events: for each stream their numbers; nil chooses some.
    package init(_ reader: HistoryReader, _ catalog: CatalogPlan, _ runtimes: [ViewRuntime], of events: [String: [Int64]]? = nil) throws {
        self.init()
        let choice = events == nil ? Self.choice(upTo: try reader.latestSequence()) : []
        for stream in catalog.streams {
            let numbers = events == nil ? choice : events?[stream.name] ?? []
            guard !numbers.isEmpty, let batch = try reader.events(of: stream.name, numbers: numbers) else { continue }
            try add(batch, of: stream, runtimes)
        }
    }

    fileprivate var count: Int { events.values.reduce(0) { $0 + $1.count } }
}

/// The features that make other values of the same events than when a store was built, though their definitions are the same: what is inside
/// of a closure has changed. Empty where nothing was kept to tell by.
///
/// - Parameter known: what the store has kept.
private func changedClosures(
    since known: DefinitionSamples?, _ reader: HistoryReader, _ catalog: CatalogPlan, _ runtimes: [ViewRuntime]
) throws -> [String] {
    guard let known else { return [] }
    return known.changes(to: try DefinitionSamples(reader, catalog, runtimes, of: known.events))
}

/// The same for a store that is not open, and may be of other definitions.
package func changedClosures(in directory: String, _ catalog: CatalogPlan, _ reader: HistoryReader) throws -> [String] {
    try changedClosures(since: OnlineStore.samples(in: directory), reader, catalog, catalog.views.map { ViewRuntime($0) })
}

/// Refuses a store whose closures have changed since it was built.
package func checkClosures(of store: OnlineStore, _ reader: HistoryReader) throws {
    let changed = try changedClosures(since: store.samples(), reader, store.catalog, store.runtimes)
    if changed.isEmpty { return }
    throw OnlineStoreError(
        "a closure has changed since the online store in \(store.directory) was built: of the same events, by the same definition, other values come for \(changed.joined(separator: ", "))\nway out: raise the `revision` of the view, then `weir apply`; or `weir apply --accept-changes` (or `weir rebuild`), which builds the store with the code as it is"
    )
}

/// Keeps what the definitions make of some events, where nothing was kept, where there are many more events now, or where one was erased.
func keepSamples(in store: OnlineStore, _ reader: HistoryReader) throws {
    let known = try store.samples()
    if let known, DefinitionSamples.choice(upTo: try reader.latestSequence()).count < 4 * known.count,
        try DefinitionSamples(reader, store.catalog, store.runtimes, of: known.events).isOfSameEvents(as: known)
    {
        return
    }
    let now = try DefinitionSamples(reader, store.catalog, store.runtimes)
    if now.count > 0 { try store.keep(now) }
}
