import WeirRecords

/// What differs between the definitions that the stores were built with and those of the code.
///
/// What is inside of closures (filters, derived and on-demand features, computed properties) cannot be seen, and is not compared.
package struct DefinitionChanges: Sendable {
    package enum Kind: String, Sendable { case added, changed, removed }

    package struct Change: Sendable, Hashable {
        package var kind: Kind
        /// `household_spend`, `household_spend.spend_7d`, or a stream's name.
        package var name: String
        /// The definition as the stores have it, and as the code has it; nil where there is none.
        package var stored: String?
        package var code: String?
    }

    /// What becomes of the stores.
    package enum Consequence: String, Sendable {
        /// Nothing differs.
        case none
        /// The history takes new optional fields as they come.
        case fieldsAreAdded = "fields are added"
        /// The online store has to be made anew from the history.
        case rebuild
        /// So has it, and before that the history's rows get their keys in other views.
        case rekey
        /// The history has not what the definitions need: events have to be ingested again.
        case ingestAgain = "ingest again"
    }

    package private(set) var streams: [Change] = []
    package private(set) var views: [Change] = []
    package private(set) var features: [Change] = []
    /// They need nothing of the stores.
    package private(set) var services: [Change] = []
    package private(set) var consequence = Consequence.none

    /// - Parameters:
    ///   - online: the definition that the online store was built with.
    ///   - history: for each stream the definition that the history was made with.
    ///   - services: for each service the one that was served last; empty where that is not known.
    package init(online: String, history: [String: String], services known: [String: String] = [:], catalog: CatalogPlan) {
        compareServices(known, catalog)
        for stream in catalog.streams {
            guard let stored = history[stream.name] else {
                streams.append(Change(kind: .added, name: stream.name, stored: nil, code: stream.definition))
                continue
            }
            if stored == stream.definition { continue }
            streams.append(Change(kind: .changed, name: stream.name, stored: stored, code: stream.definition))
            raise(stream.canFollow(stored) ? stream.hasOtherViews(than: stored) ? .rekey : .fieldsAreAdded : .ingestAgain)
        }
        for name in history.keys.sorted() where catalog.stream(named: name) == nil {
            streams.append(Change(kind: .removed, name: name, stored: history[name], code: nil))
        }
        let stored = Self.views(of: online)
        for view in catalog.views {
            let code = Self.views(of: view.definition)[view.name] ?? StoredView(header: "", features: [])
            guard let known = stored[view.name] else {
                views.append(Change(kind: .added, name: view.name, stored: nil, code: code.header))
                raise(.rebuild)
                continue
            }
            if known.header != code.header {
                views.append(Change(kind: .changed, name: view.name, stored: known.header, code: code.header))
                raise(.rebuild)
            }
            compare(known.features, code.features, of: view.name)
            if view.definition != known.definition { raise(.rebuild) }
        }
        for name in stored.keys.sorted() where catalog.view(named: name) == nil {
            views.append(Change(kind: .removed, name: name, stored: stored[name]?.header, code: nil))
            raise(.rebuild)
        }
    }

    private mutating func compareServices(_ known: [String: String], _ catalog: CatalogPlan) {
        if known.isEmpty { return }
        for service in catalog.services {
            guard let before = known[service.name] else {
                services.append(Change(kind: .added, name: service.name, stored: nil, code: service.definition))
                continue
            }
            // Views are told of by themselves.
            func lines(_ definition: String) -> [Substring] {
                definition.split(separator: "\n").map { line in
                    line.hasPrefix("  join ") ? line[..<(line.lastIndex(of: " ") ?? line.endIndex)] : line
                }
            }
            if lines(before) != lines(service.definition) {
                services.append(Change(kind: .changed, name: service.name, stored: before, code: service.definition))
            }
        }
        for name in known.keys.sorted() where catalog.service(named: name) == nil {
            services.append(Change(kind: .removed, name: name, stored: known[name], code: nil))
        }
    }

    private mutating func raise(_ new: Consequence) {
        let order: [Consequence] = [.none, .fieldsAreAdded, .rebuild, .rekey, .ingestAgain]
        if order.firstIndex(of: new)! > order.firstIndex(of: consequence)! { consequence = new }
    }

    private mutating func compare(_ stored: [StoredFeature], _ code: [StoredFeature], of view: String) {
        for feature in code {
            let known = stored.first { $0.name == feature.name }
            if known == feature { continue }
            features.append(
                Change(
                    kind: known == nil ? .added : .changed, name: view + "." + feature.name, stored: known?.definition,
                    code: feature.definition))
        }
        for feature in stored where !code.contains(where: { $0.name == feature.name }) {
            features.append(Change(kind: .removed, name: view + "." + feature.name, stored: feature.definition, code: nil))
        }
    }

    // MARK: Stored definitions

    private struct StoredFeature: Hashable {
        var name: String
        /// `double = mean(price) over sliding(2419200000000)`
        var definition: String
    }

    private struct StoredView {
        var header: String
        var lines: [String] = []
        var features: [StoredFeature]

        var definition: String { ([header] + lines).joined(separator: "\n") }
    }

    /// Reads `ViewPlan.definition`s, among other lines.
    private static func views(of text: String) -> [String: StoredView] {
        var views: [String: StoredView] = [:]
        var current: String?
        for line in text.split(separator: "\n").map(String.init) {
            if line.hasPrefix("view ") {
                let name = line.split(separator: " ")[1]
                current = String(name)
                views[String(name)] = StoredView(header: line, features: [])
            } else if !line.hasPrefix("  ") {
                current = nil
            } else if let view = current {
                views[view]!.lines.append(line)
                let words = line.dropFirst(2)
                guard !words.hasPrefix("column "), let colon = words.firstRange(of: ": ") else { continue }
                views[view]!.features.append(
                    StoredFeature(name: String(words[..<colon.lowerBound]), definition: String(words[colon.upperBound...])))
            }
        }
        return views
    }
}
