import Testing
import WeirAlgebra
import WeirRecords

private enum Department: String, Codable, CaseIterable {
    case grocery = "GROCERY"
    case wine = "WINE"
}
private enum Level: Int, Codable, CaseIterable {
    case low = 3
    case high = 7
}
private enum Closed: String, Codable { case only = "ONLY" }
private struct Address: Codable {
    var street: String
    var houseNumber: Int
}
private struct CustomerID: Codable {
    var value: String
    init(from decoder: any Decoder) throws { value = try decoder.singleValueContainer().decode(String.self) }
}

private struct Everything: Codable {
    var id: String
    var count: Int
    var small: Int8
    var medium: Int16
    var wide: Int32
    var long: Int64
    var byte: UInt8
    var port: UInt16
    var word: UInt32
    var price: Double
    var weight: Float
    var isMember: Bool
    var eventTime: EventTime
    var department: Department
    var level: Level
    var customer: CustomerID
    var tags: [String]
    var address: Address
    var labels: [String: Int]
    var note: String?
    var score: Double?
    var rank: Int?
    var isNew: Bool?
    var seenAt: EventTime?
    var kind: Department?
    var extras: [Int]?
}

private func failure<T: Decodable>(_ type: T.Type) -> String {
    do throws(SchemaError) {
        let schema = try RecordSchema.probe(type, name: "test", timestampUnit: nil)
        return "no error, but \(schema.fields.map(\.name))"
    } catch {
        return error.description
    }
}

@Suite struct SchemaProbeTests {
    @Test func typesAndOptionality() throws {
        let schema = try RecordSchema.probe(Everything.self, name: "everything", timestampUnit: .seconds)
        #expect(schema.name == "everything")
        #expect(schema.timestampUnit == .seconds)
        let shape = schema.fields.map { "\($0.name):\($0.type)\($0.isOptional ? "?" : "")" }
        #expect(
            shape == [
                "id:text", "count:int64", "small:int64", "medium:int64", "wide:int64", "long:int64", "byte:int64",
                "port:int64",
                "word:int64", "price:float64", "weight:float64", "is_member:bool", "event_time:time", "department:text",
                "level:int64", "customer:text", "tags:json", "address:json", "labels:json", "note:text?",
                "score:float64?",
                "rank:int64?", "is_new:bool?", "seen_at:time?", "kind:text?", "extras:json?",
            ])
    }

    @Test func anOptionalThatIsDecodedByNameIsOptional() throws {
        struct Handmade: Decodable {
            var note: String?
            var seenAt: EventTime?
            var tags: [Int]?
            enum CodingKeys: CodingKey { case note, seenAt, tags }
            init(from decoder: any Decoder) throws {
                let container = try decoder.container(keyedBy: CodingKeys.self)
                note = try container.decode(String?.self, forKey: .note)
                seenAt = try container.decode(EventTime?.self, forKey: .seenAt)
                tags = try container.decode([Int]?.self, forKey: .tags)
            }
        }
        let schema = try RecordSchema.probe(Handmade.self, name: "handmade", timestampUnit: nil)
        #expect(schema.fields.map(\.isOptional) == [true, true, true])
        #expect(schema.fields.map(\.type) == [.text, .time, .json])
    }

    @Test func aKeyThatIsAskedForTwiceIsOneField() throws {
        struct Twice: Decodable {
            var id: Int
            enum CodingKeys: CodingKey { case id }
            init(from decoder: any Decoder) throws {
                let container = try decoder.container(keyedBy: CodingKeys.self)
                _ = try container.decode(Int.self, forKey: .id)
                id = try container.decode(Int.self, forKey: .id)
            }
        }
        #expect(try RecordSchema.probe(Twice.self, name: "twice", timestampUnit: nil).fields.count == 1)
    }

    @Test func whatCannotBeARecordIsRefused() {
        struct Unsigned: Codable { var totalCount: UInt64 }
        struct UnsignedOptional: Codable { var totalCount: UInt? }
        struct NotIterable: Codable { var state: Closed }
        struct Clash: Codable {
            var userID: Int
            var userId: String
        }
        struct ClashOfOneType: Codable {
            var userID: Int
            var userId: Int
        }
        #expect(failure(ClashOfOneType.self).contains("'user_id'"))
        struct Throwing: Decodable {
            struct Oops: Error, CustomStringConvertible { let description = "never good enough" }
            init(from decoder: any Decoder) throws { throw Oops() }
        }
        #expect(failure(Unsigned.self).contains("'totalCount'"))
        #expect(failure(Unsigned.self).contains("use Int"))
        #expect(failure(UnsignedOptional.self).contains("'totalCount'"))
        #expect(failure(NotIterable.self).contains("'state'"))
        #expect(failure(NotIterable.self).contains("CaseIterable"))
        #expect(failure(Clash.self).contains("'user_id'"))
        #expect(failure(Throwing.self).contains("never good enough"))
        #expect(failure([Int].self).contains("keyed"))
        #expect(failure(Int.self).contains("keyed"))
        #expect(failure(String.self).contains("keyed"))
        #expect(failure(Department.self).contains("keyed"))
    }
}
