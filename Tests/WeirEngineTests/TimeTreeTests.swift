import ExampleFeatures
import Foundation
import Testing
import WeirAlgebra
import WeirDefinitions
import WeirEngine
import WeirOnlineStore
import WeirRecords
import WeirTesting

/// The time tree, in memory and in LMDB, against a scan of all rows: the same bits, however events arrive.
@Suite struct TimeTreeTests {
    static let hour: Int64 = 3_600_000_000

    static func catalog() throws -> CatalogPlan {
        struct Builder {
            @CatalogBuilder var catalog: Catalog {
                HouseholdSpend.self
                BasketActivity.self
                StoreTraffic.self
                CheckoutOffer.self
            }
        }
        return try CatalogPlan(Builder().catalog)
    }

    /// Events of one household: dense bursts, ties, long silences.
    static func batch(_ stream: any StreamPlan, _ n: Int, _ random: inout SeededGenerator) -> PreparedBatch {
        var parser = JSONRecordParser(schema: stream.schema)
        var records = RecordBatch(schema: stream.schema)
        var time: Int64 = 1_483_228_800_000_000
        for number in 0..<n {
            switch Int.random(in: 0..<10, using: &random) {
            case 0: time += Int64.random(in: 0...20, using: &random) * 24 * hour
            case 1, 2: time += 0
            case 3: time += 1_800_000_000 + Int64.random(in: 0...1, using: &random)
            default: time += Int64.random(in: 1...60_000_000, using: &random)
            }
            let department = ["GROCERY", "", "DELI", "MEAT"].randomElement(using: &random)!
            let price = Double(Int.random(in: 0...2_000, using: &random)) / 100
            let json = """
                {"id":"p\(n - number)","household":1,"basket":\(number / 7),"store":3,"product":1,"department":"\(department)",\
                "category":"","quantity":1,"price":\(price),"retail_discount":0,"coupon_discount":0,\
                "event_time":"\(TimeText.format(EventTime(microseconds: time)))"}
                """
            parser.append(Array(json.utf8), to: &records, offset: Int64(number))
        }
        return stream.prepare(records)
    }

    @Test func treeEqualsScan() throws {
        var random = SeededGenerator()
        let seed = random.seed
        let catalog = try Self.catalog()
        for (count, headRows) in [(1, 64), (60, 64), (100, 64), (129, 0), (700, 3), (700, 64), (3_000, 64)] {
            let view = ViewRuntime(catalog.views[0], headRowsMax: headRows)
            let batch = Self.batch(catalog.streams[0], count, &random)
            #expect(batch.records.malformed.isEmpty)
            var all = EventRows(columns: view.plan.columns)
            for row in 0..<batch.count { all.append(batch, view: 0, row: row) }
            let sorted = all.sorted()
            let nodes = MemoryNodes()
            let tree = TimeTree(view: view, nodes: nodes)
            try tree.insertInAnyOrder(all, of: count, using: &random)
            for _ in 0..<60 {
                let time = EventTime(
                    microseconds: sorted.times.randomElement(using: &random)! + [0, 1, Self.hour, 28 * 24 * Self.hour].randomElement(
                        using: &random)!)
                let asOf = AsOf(time, isInclusive: Bool.random(using: &random))
                let expected = try view.evaluate(rows: sorted, asOf: asOf, session: nil)
                let got = try view.evaluate(nodes: nodes, asOf: asOf, session: nil, keptFrom: .min)
                #expect(got?.results == expected.results, "seed \(seed), \(count) events, \(time)")
                #expect(got?.latestEvent == expected.latestEvent, "seed \(seed)")
            }
        }
    }

    /// Where a session's event is in the store already it counts once, wherever the store keeps it.
    @Test func sessionsAreMergedOnce() throws {
        var random = SeededGenerator()
        let seed = random.seed
        let catalog = try Self.catalog()
        for (number, plan) in catalog.views.enumerated() where number < 2 {
            let view = ViewRuntime(plan, headRowsMax: 20)
            let batch = Self.batch(catalog.streams[0], 600, &random)
            for _ in 0..<40 {
                let key = number == 0 ? "1" : String(Int.random(in: 0..<80, using: &random))
                var stored = EventRows(columns: plan.columns)
                var session = EventRows(columns: plan.columns)
                var union = EventRows(columns: plan.columns)
                for row in 0..<batch.count where batch.views[number].keys.withText(row, { $0.elementsEqual(key.utf8) }) {
                    let kind = Int.random(in: 0..<20, using: &random)
                    if kind != 0 { stored.append(batch, view: number, row: row) }
                    if kind < 3 { session.append(batch, view: number, row: row) }
                    union.append(batch, view: number, row: row)
                }
                let nodes = MemoryNodes()
                let tree = TimeTree(view: view, nodes: nodes)
                for start in stride(from: 0, to: stored.count, by: 15) {
                    try tree.insert(stored.slice(start..<min(start + 15, stored.count)).sorted())
                }
                // Between events nothing happens at exactly the time, so store and session are one list.
                let time = EventTime(microseconds: union.times.randomElement(using: &random)! + 1)
                let asOf = AsOf(time)
                if union.times.contains(time.microseconds) { continue }
                var expectedRows = stored
                for row in 0..<session.count where session.times[row] < time.microseconds { expectedRows.append(session, row: row) }
                let expected = try view.evaluate(rows: expectedRows.sorted().deduplicated(), asOf: asOf, session: nil)
                let got = try view.evaluate(nodes: nodes, asOf: asOf, session: session.sorted(), keptFrom: .min)
                #expect(got?.results == expected.results, "seed \(seed), view \(plan.name)")
            }
        }
    }

    /// What has expired is in the base record: lifetime features stay, and late events join them.
    @Test func expiryKeepsLifetimeFeatures() throws {
        var random = SeededGenerator(seed: 11)
        let catalog = try Self.catalog()
        let view = ViewRuntime(catalog.views[0])
        let batch = Self.batch(catalog.streams[0], 2_000, &random)
        var early = EventRows(columns: view.plan.columns)
        var late = EventRows(columns: view.plan.columns)
        var all = EventRows(columns: view.plan.columns)
        for row in 0..<batch.count {
            if row % 10 == 3 { late.append(batch, view: 0, row: row) } else { early.append(batch, view: 0, row: row) }
            all.append(batch, view: 0, row: row)
        }
        let nodes = MemoryNodes()
        let tree = TimeTree(view: view, nodes: nodes)
        let ordered = early.sorted()
        try tree.insert(ordered.slice(0..<ordered.count - 40))
        try tree.insert(ordered.slice(ordered.count - 40..<ordered.count))
        let sorted = all.sorted()
        for step in 1...4 {
            let horizon = sorted.times[sorted.count * step / 5]
            try tree.expire(before: horizon)
            if step == 2 {
                let ordered = late.sorted()
                for start in stride(from: 0, to: ordered.count, by: 30) {
                    try tree.insert(ordered.slice(start..<min(start + 30, ordered.count)))
                }
            }
            guard step >= 2 else { continue }
            for _ in 0..<40 {
                let time = EventTime(microseconds: sorted.times.randomElement(using: &random)! + 1)
                let asOf = AsOf(time)
                let got = try view.evaluate(nodes: nodes, asOf: asOf, session: nil, keptFrom: horizon)
                let needsHistory = view.earliestBounded(asOf) < horizon
                #expect((got == nil) == (needsHistory || time.microseconds < horizon))
                if let got { #expect(got.results == (try view.evaluate(rows: sorted, asOf: asOf, session: nil)).results) }
            }
        }
    }

    /// Sizes whose product is beyond 64 bits.
    @Test func sizesThatOverflowAreRefused() {
        var leaf = ByteWriter()
        leaf.writeRaw([1, 2])
        leaf.write(UInt16(4))
        leaf.write(UInt32.max)
        // Times of no width, then texts of one length.
        leaf.writeRaw([1, 0])
        leaf.write(UInt32(8))
        leaf.write(Int64(0))
        leaf.writeRaw([5, 0])
        leaf.write(UInt32(6))
        leaf.writeRaw([0, 0])
        leaf.write(UInt32.max)
        leaf.bytes.withUnsafeBytes { raw in
            _ = #expect(throws: FormatError.self) { _ = try LeafView(raw, columns: []) }
        }
    }

    /// Trees with damaged nodes are read and written: an error or other values, never a trap.
    @Test(arguments: 0..<3) func damagedTreesNeverTrap(number: Int) throws {
        let catalog = try Self.catalog()
        var random = SeededGenerator()
        let view = ViewRuntime(catalog.views[number], leafRowsMax: 8)
        func rows(_ count: Int) -> EventRows {
            let batch = Self.batch(catalog.streams[0], count, &random)
            var rows = EventRows(columns: view.plan.columns)
            for row in 0..<batch.count { rows.append(batch, view: number, row: row) }
            return rows.sorted()
        }
        let whole = MemoryNodes()
        let all = rows(300)
        try TimeTree(view: view, nodes: whole).insert(all)
        try TimeTree(view: view, nodes: whole).expire(before: all.times[60])
        var nodes: [(key: NodeKey?, bytes: [UInt8])] = whole.base().map { [(nil, Array($0))] } ?? []
        var position: NodeKey? = NodeKey(start: 0, level: NodeKey.levelMax)
        while let key = position, let node = whole.seek(key) {
            nodes.append((node.key, Array(node.bytes)))
            position =
                node.key.level > 0
                ? NodeKey(start: node.key.start, level: node.key.level - 1) : NodeKey(start: node.key.start + 1, level: NodeKey.levelMax)
        }
        let more = rows(40)
        var errors = 0
        for _ in 0..<1_500 {
            let damaged = MemoryNodes()
            let chosen = Int.random(in: 0..<nodes.count, using: &random)
            for (index, node) in nodes.enumerated() {
                var bytes = node.bytes
                if index == chosen {
                    for _ in 0..<Int.random(in: 1...4, using: &random) {
                        let byte = Int.random(in: 0..<bytes.count, using: &random)
                        // What is large overflows most easily.
                        bytes[byte] = Bool.random(using: &random) ? 255 : UInt8.random(in: 0...255, using: &random)
                    }
                    // A tile's or base record's number of rows.
                    if Bool.random(using: &random), node.bytes[0] != 1 { for byte in 4..<12 { bytes[byte] = 255 } }
                }
                bytes.withUnsafeBytes { if let key = node.key { damaged.put(key, $0) } else { damaged.putBase($0) } }
            }
            do {
                let time = EventTime(
                    microseconds: all.times.randomElement(using: &random)! + Int64.random(in: 0...1_000_000, using: &random))
                _ = try view.evaluate(nodes: damaged, asOf: AsOf(time), session: nil, keptFrom: .min)
                try TimeTree(view: view, nodes: damaged).insert(more)
                try TimeTree(view: view, nodes: damaged).expire(before: time.microseconds)
            } catch {
                errors += 1
            }
        }
        #expect(errors > 100)
    }

    /// The leaf format, byte by byte: docs/FORMATS.md describes it.
    @Test func leafFormatIsPinned() throws {
        let catalog = try Self.catalog()
        var random = SeededGenerator(seed: 5)
        let batch = Self.batch(catalog.streams[0], 3, &random)
        var rows = EventRows(columns: catalog.views[1].columns)
        for row in 0..<3 { rows.append(batch, view: 1, row: row) }
        let bytes = rows.sorted().encodedLeaf()
        try bytes.withUnsafeBytes { raw in
            let leaf = try LeafView(raw, columns: catalog.views[1].columns)
            #expect(leaf.rows(columns: catalog.views[1].columns).encodedLeaf() == bytes)
        }
        #expect(StableHash.xxh64(bytes.map { String($0) }.joined(separator: ",")) == Self.goldenLeaf, "\(bytes)")
        // Any damage is an error or other values, never a trap.
        for _ in 0..<2_000 {
            var damaged = bytes
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                damaged[Int.random(in: 0..<damaged.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            if Bool.random(using: &random) { damaged.removeLast(Int.random(in: 0..<damaged.count, using: &random)) }
            damaged.withUnsafeBytes { raw in
                if let leaf = try? LeafView(raw, columns: catalog.views[1].columns), leaf.count < 1_000 {
                    _ = leaf.rows(columns: catalog.views[1].columns)
                }
            }
        }
    }
    static let goldenLeaf: UInt64 = 12_483_765_787_611_237_113

    /// What builds before version 2 wrote is read, and takes more rows.
    @Test func leavesOfVersion1AreRead() throws {
        let old: [UInt8] = [
            1, 1, 5, 0, 3, 0, 0, 0, 1, 4, 20, 0, 0, 0, 1, 114, 8, 137, 253, 68, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 137, 109, 134, 1, 5, 0, 10, 0,
            0,
            0, 1, 112, 0, 1, 0, 0, 0, 50, 51, 49, 1, 0, 8, 0, 0, 0, 241, 214, 250, 127, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 3,
            2, 15, 0, 0, 0, 2, 198, 0, 0, 0, 0, 0, 0, 0, 238, 6, 0, 0, 191, 2,
        ]
        let catalog = try Self.catalog()
        let view = ViewRuntime(catalog.views[1], headRowsMax: 0)
        var random = SeededGenerator(seed: 5)
        let batch = Self.batch(catalog.streams[0], 3, &random)
        var rows = EventRows(columns: view.plan.columns)
        for row in 0..<3 { rows.append(batch, view: 1, row: row) }
        let nodes = MemoryNodes()
        old.withUnsafeBytes { nodes.put(.whole, $0) }
        #expect(
            try LeafView(nodes.seek(.whole)!.bytes, columns: view.plan.columns).rows(columns: view.plan.columns).encodedLeaf()
                == rows.sorted().encodedLeaf())
        var later = EventRows(columns: view.plan.columns)
        later.append(rows, row: 0)
        later.times[0] += 1_000_000_000_000
        try TimeTree(view: view, nodes: nodes).insert(later)
        rows.append(later, row: 0)
        #expect(
            try LeafView(nodes.seek(.whole)!.bytes, columns: view.plan.columns).rows(columns: view.plan.columns).encodedLeaf()
                == rows.sorted().encodedLeaf())
    }

    /// Rows that come one after another are put behind a stored leaf's columns as they are where they fit: it holds what one does that
    /// is written at once.
    @Test func appendedLeavesHoldTheSame() throws {
        var random = SeededGenerator()
        print("appendedLeavesHoldTheSame(): WEIR_TEST_SEED=\(random.seed)")
        let types: [ColumnType] = [.int64, .float64, .float64, .text, .text, .bool]
        let columns = types.map { ViewPlan.Column(signature: "c", type: $0) }
        let runtime = ViewRuntime(
            ViewPlan(
                name: "v", entity: "e", keyTypeName: "Int", stream: "s", columns: columns, filterCount: 0, slots: [], windows: [],
                features: [], closedWindows: nil, updatesTopic: nil, keyForm: .text, canonicalKey: { $0 }), headRowsMax: 0)
        for round in 0..<300 {
            let nodes = MemoryNodes()
            let tree = TimeTree(view: runtime, nodes: nodes)
            var all = EventRows(columns: columns)
            var time = Int64.random(in: -1_000_000_000...1_000_000_000, using: &random) * 1_000
            let unit: Int64 = [1, 1_000, 1_000_000, 3_600_000_000].randomElement(using: &random)!
            let nullRate = [0, 0, 30].randomElement(using: &random)!
            while all.count < 120 {
                var rows = EventRows(columns: columns)
                for _ in 0..<Int.random(in: 1...5, using: &random) {
                    time += unit * Int64.random(in: 0...(Bool.random(using: &random) ? 3 : 100_000), using: &random)
                    if round % 3 == 0, Int.random(in: 0..<40, using: &random) == 0 { time += 1 }
                    var row = EventRows(columns: columns)
                    row.times = [time]
                    row.ids.append(
                        text: round % 2 == 0 ? "id-\(1_000 + all.count + rows.count)" : "\(Int.random(in: 0...999_999, using: &random))")
                    row.tags = [round % 4 == 0 ? UInt32.random(in: 0...9, using: &random) : 0]
                    row.filterBitSets = [round % 5 == 0 ? UInt64.random(in: 0...3, using: &random) << 40 : 0]
                    for column in columns.indices {
                        if Int.random(in: 0..<100, using: &random) < nullRate {
                            row.columns[column].appendNull()
                            continue
                        }
                        switch column {
                        case 0: row.columns[0].append(int64: Int64.random(in: -200...200, using: &random) << Int64(round % 50))
                        case 1: row.columns[1].append(float64: Double(Int.random(in: 0...99_999, using: &random)) / 100)
                        case 2: row.columns[2].append(float64: Double.random(in: -1...1, using: &random))
                        case 3: row.columns[3].append(text: ["", "a", "ß", "longer"].randomElement(using: &random)!)
                        case 4: row.columns[4].append(text: "t\(Int.random(in: 0...9_999, using: &random))")
                        default: row.columns[5].append(int64: Int64.random(in: 0...1, using: &random))
                        }
                    }
                    rows.append(row, row: 0)
                }
                try tree.insert(rows.sorted())
                for row in 0..<rows.count { all.append(rows, row: row) }
                // Equal events would count once, which this test is not about.
                all = all.sorted()
                let stored = try LeafView(nodes.seek(.whole)!.bytes, columns: columns).rows(columns: columns)
                if stored.count != all.count { break }
                #expect(stored.encodedLeaf() == all.encodedLeaf(), "round \(round)")
            }
        }
    }

    /// The head record: events until they go into the tree, and whether there is one.
    @Test func headRecords() throws {
        let catalog = try Self.catalog()
        var random = SeededGenerator(seed: 5)
        let view = ViewRuntime(catalog.views[1], headRowsMax: 4)
        let batch = Self.batch(catalog.streams[0], 8, &random)
        var rows = EventRows(columns: view.plan.columns)
        for row in 0..<8 { rows.append(batch, view: 1, row: row) }
        rows = rows.sorted()
        let nodes = MemoryNodes()
        let tree = TimeTree(view: view, nodes: nodes)
        try tree.insert(rows.slice(0..<3))
        let leaf = rows.slice(0..<3).encodedLeaf()
        #expect(Array(nodes.head()!) == [4, 1, 0, 0] + leaf)
        #expect(nodes.seek(.whole) == nil)
        // The fifth event makes all go into the tree.
        try tree.insert(rows.slice(3..<5))
        #expect(Array(nodes.head()!) == [4, 1, 1, 0])
        #expect(Array(nodes.seek(.whole)!.bytes) == rows.slice(0..<5).encodedLeaf())
        try tree.insert(rows.slice(5..<8))
        #expect(Array(nodes.head()!) == [4, 1, 1, 0] + rows.slice(5..<8).encodedLeaf())
        // Without events and without a tree it goes, too.
        try tree.expire(before: rows.times[7])
        #expect(nodes.seek(.whole) == nil && nodes.head() != nil)
        try tree.expire(before: rows.times[7] + 1)
        #expect(nodes.head() == nil && nodes.seek(.whole) == nil)
        // Any damage is an error or other values, never a trap.
        let stored = [4, 1, 1, 0] + leaf
        for _ in 0..<2_000 {
            var damaged = stored
            damaged[Int.random(in: 0..<damaged.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            if Bool.random(using: &random) { damaged.removeLast(Int.random(in: 0..<damaged.count, using: &random)) }
            damaged.withUnsafeBytes { raw in
                if let leaf = try? HeadView(raw, columns: view.plan.columns).leaf, leaf.count < 1_000 {
                    _ = leaf.rows(columns: view.plan.columns)
                }
            }
        }
    }

    /// A store of a build without head records has trees alone: it is read, and gets heads with further events.
    @Test func treesWithoutHeadsAreRead() throws {
        var random = SeededGenerator()
        let seed = random.seed
        let catalog = try Self.catalog()
        let view = ViewRuntime(catalog.views[0])
        let batch = Self.batch(catalog.streams[0], 600, &random)
        var rows = EventRows(columns: view.plan.columns)
        for row in 0..<batch.count { rows.append(batch, view: 0, row: row) }
        rows = rows.sorted()
        for (first, second) in [(500, 520), (20, 40)] {
            let nodes = MemoryNodes()
            try TimeTree(view: ViewRuntime(catalog.views[0], headRowsMax: 0), nodes: nodes).insert(rows.slice(0..<first))
            nodes.deleteHead()
            let asOf = AsOf(EventTime(microseconds: rows.times[second] + 1), isInclusive: false)
            func expect(_ count: Int) throws {
                let got = try view.evaluate(nodes: nodes, asOf: asOf, session: nil, keptFrom: .min)
                #expect(
                    got?.results == (try view.evaluate(rows: rows.slice(0..<count), asOf: asOf, session: nil)).results, "seed \(seed)")
            }
            try expect(first)
            try TimeTree(view: view, nodes: nodes).insert(rows.slice(first..<second))
            #expect(nodes.head() != nil)
            try expect(second)
        }
    }

    /// Everything that is stored of an entity: leaves, tiles with all partials, the base record of what has expired.
    @Test(arguments: [(0, UInt64(1474326476776455706)), (1, 9807654327354437752), (2, 15785462958046453906)])
    func storedNodesArePinned(number: Int, golden: UInt64) throws {
        let catalog = try Self.catalog()
        var random = SeededGenerator(seed: 31)
        let view = ViewRuntime(catalog.views[number])
        let batch = Self.batch(catalog.streams[0], 900, &random)
        var rows = EventRows(columns: view.plan.columns)
        for row in 0..<batch.count { rows.append(batch, view: number, row: row) }
        let nodes = MemoryNodes()
        let tree = TimeTree(view: view, nodes: nodes)
        try tree.insert(rows.sorted())
        try tree.expire(before: rows.sorted().times[300])
        var stored = ByteWriter()
        var position: NodeKey? = NodeKey(start: 0, level: NodeKey.levelMax)
        var tiles = 0
        while let key = position, let node = nodes.seek(key) {
            stored.write(node.key.start)
            stored.write(node.key.level)
            stored.writeRaw(node.bytes)
            tiles += node.isTile ? 1 : 0
            // The next key: narrower at the same start, or the next start.
            position =
                node.key.level > 0
                ? NodeKey(start: node.key.start, level: node.key.level - 1) : NodeKey(start: node.key.start + 1, level: NodeKey.levelMax)
        }
        if let base = nodes.base() { stored.writeRaw(base) }
        #expect(tiles > 0)
        #expect(stored.bytes.withUnsafeBytes { StableHash.xxh64($0) } == golden)
    }

    @Test func keysArePinned() {
        #expect(StoreKey.meta("state") == [0, 115, 116, 97, 116, 101])
        let entity: [UInt8] = [1, 1, 2, 0, 2, 97, 98]
        let prefix = EntityPrefix()
        [UInt8]("ab".utf8).withUnsafeBytes { prefix.set(view: 258, key: $0) }
        #expect(Array(prefix.node(NodeKey(start: 0x0102_0304_0506_0700, level: 2))) == entity + [1, 1, 2, 3, 4, 5, 6, 7, 0, 14])
        #expect(Array(prefix.base) == entity + [0])
        #expect(Array(prefix.head) == [2, 1, 2, 0, 2, 97, 98])
    }

    /// The same through LMDB, in transactions.
    @Test func lmdbEqualsMemory() throws {
        var random = SeededGenerator(seed: 23)
        let catalog = try Self.catalog()
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("weir-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let store = try OnlineStore(directory: directory, catalog: catalog, shards: 3, mode: .write(isSynced: false))
        let memory = MemoryStore()
        let engine = ShardEngine(catalog: catalog, views: store.runtimes)
        let batch = Self.batch(catalog.streams[0], 2_500, &random)
        var order = Array(0..<batch.count).shuffled(using: &random)
        while !order.isEmpty {
            let rows = Array(order.prefix(400)).sorted()
            order.removeFirst(rows.count)
            try engine.apply(Sharding.slices(of: batch, rows: rows, shards: 1)[0], of: batch, viewNumbers: [0, 1, 2], to: memory)
            for (shard, slice) in Sharding.slices(of: batch, rows: rows, shards: 3).enumerated() {
                try store.write(shard: shard) { try engine.apply(slice, of: batch, viewNumbers: [0, 1, 2], to: $0) }
            }
        }
        // A reader of its own, as another process has it.
        let reading = try OnlineStore(directory: directory, catalog: catalog, shards: nil, mode: .read)
        for (view, key) in [(0, "1"), (2, "3"), (1, "5"), (1, "77"), (0, "2")] {
            for _ in 0..<30 {
                let asOf = AsOf(EventTime(microseconds: batch.times.randomElement(using: &random)! + 1))
                let expected = try engine.views[view].evaluate(
                    nodes: memory.nodes(view: view, key: key), asOf: asOf, session: nil, keptFrom: .min)
                let got = try reading.withReader {
                    try $0.withEntity(view: view, key: key) { nodes, kept in
                        try engine.views[view].evaluate(nodes: nodes, asOf: asOf, session: nil, keptFrom: kept)
                    }
                }
                #expect(got?.results == expected?.results)
                #expect(got?.isKnown == expected?.isKnown)
            }
        }
        // Other definitions are refused, with the way out.
        struct Fewer { @CatalogBuilder var catalog: Catalog { StoreTraffic.self } }
        #expect(throws: OnlineStoreError.self) {
            try OnlineStore(directory: directory, catalog: CatalogPlan(Fewer().catalog), shards: nil, mode: .read)
        }
    }
}

extension ViewRuntime {
    /// The earliest start of the bounded windows.
    fileprivate func earliestBounded(_ asOf: AsOf) -> Int64 {
        plan.windows.filter { $0.kind != .lifetime }.compactMap { $0.bounds(at: asOf.time)?.start.microseconds }.min() ?? .max
    }
}
