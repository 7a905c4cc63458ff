import WeirDefinitions
import WeirRecords
import WeirServer

/// What `FEATURES.DESCRIBE` and `GET /features` show of the definitions.
extension CatalogPlan {
    /// A service, a view, a stream or a feature by its name, in that order.
    func describe(_ name: String) throws(CommandError) -> ReplyValue {
        if let service = service(named: name) { return service.description }
        if let view = viewNumber(name) { return views[view].description }
        if let stream = stream(named: name) { return stream.catalogDescription }
        for view in views {
            if let number = view.feature(named: name) {
                return .map(
                    [.init("kind", .string("feature")), .init("name", .string(name)), .init("view", .string(view.name))]
                        + view.details(of: view.features[number]))
            }
        }
        throw CommandError("nothing is named '\(name)'; FEATURES.LIST shows services, views and streams")
    }

    var description: ReplyValue {
        .map([
            "services": .array(services.map(\.description)), "views": .array(views.map(\.description)),
            "streams": .array(streams.map(\.catalogDescription)),
        ])
    }
}

extension ServicePlan {
    fileprivate var description: ReplyValue {
        func columns(_ outputs: [Output]) -> ReplyValue {
            .array(outputs.map { .map(["name": .string($0.name), "type": .string($0.type.rawValue)]) })
        }
        var entries: [ReplyValue.Entry] = [
            .init("kind", .string("service")), .init("name", .string(name)), .init("request", requestSchema.description),
            .init("views", .array(joins.map { .string($0.view.name) })), .init("features", columns(outputs)),
        ]
        // Columns of training sets alone.
        if !labels.isEmpty { entries.append(.init("labels", columns(labels))) }
        return .map(entries)
    }
}

extension ViewPlan {
    fileprivate var description: ReplyValue {
        var entries: [ReplyValue.Entry] = [
            .init("kind", .string("view")), .init("name", .string(name)), .init("entity", .string(entity)),
            .init("key", .string(keyTypeName)), .init("join_keys", .array(joinKeys.map { .string($0) })),
            .init("stream", .string(stream)), .init("fingerprint", .string(fingerprint)),
        ]
        if let timeToLive { entries.append(.init("time_to_live_us", .int(timeToLive))) }
        entries.append(.init("features", .array(features.map { .map([.init("name", .string($0.name))] + details(of: $0)) })))
        return .map(entries)
    }

    /// The window is null for what is derived from other features.
    fileprivate func details(of feature: Feature) -> [ReplyValue.Entry] {
        var window = ReplyValue.null
        if case .aggregate(_, let number, _) = feature.computation { window = .string(windows[number].signature) }
        return [
            .init("type", .string(feature.type.rawValue)), .init("window", window), .init("definition", .string(feature.signature)),
        ]
    }
}

extension StreamPlan {
    fileprivate var catalogDescription: ReplyValue {
        var entries: [ReplyValue.Entry] = [
            .init("kind", .string("stream")), .init("name", .string(name)), .init("fingerprint", .string(fingerprint)),
            .init("views", .array(views.map { .string($0.name) })),
        ]
        if let timeToLive { entries.append(.init("time_to_live_us", .int(timeToLive))) }
        entries.append(.init("fields", schema.description))
        return .map(entries)
    }
}

extension RecordSchema {
    fileprivate var description: ReplyValue {
        .array(fields.map { .map(["name": .string($0.name), "type": .string($0.type.rawValue), "optional": .bool($0.isOptional)]) })
    }
}
