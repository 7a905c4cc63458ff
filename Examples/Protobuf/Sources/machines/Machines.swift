import SwiftProtobuf
import Weir

enum Machine: Entity {
    typealias ID = Int
    static let name = "machine"
}

struct Reading: Event {
    static let stream = "readings"
    var id: String
    var machine: Int
    var temperature: Double
    var eventTime: EventTime
    var `operator`: String?
}

/// The topic carries Protobuf; `machine_reading.pb.swift` is generated from `machine_reading.proto`.
extension Reading: MessageDecodable {
    init(message: [UInt8]) throws {
        let proto = try MachineReading(serializedBytes: message)
        self.init(
            id: proto.id, machine: Int(proto.machine), temperature: proto.temperature,
            eventTime: EventTime(microseconds: proto.measuredAt), operator: proto.hasOperator ? proto.operator : nil)
    }
}

struct MachineHeat: FeatureView {
    typealias Subject = Machine
    static func key(of reading: Reading) -> Machine.ID? { reading.machine }
    let maxTemperature1h = Aggregate.max(\.temperature, over: .sliding(.hours(1)))
    let readings = Aggregate.count(over: .lifetime)
}

struct Alarm: FeatureService {
    struct Request: Codable, Sendable { var machine: Int }
    let machine = Join(MachineHeat.self, on: { (request: Request) in request.machine })
    var outputs: [Output<Request>] { machine.all }
}

@main struct Machines: FeatureStoreApp {
    var catalog: Catalog {
        MachineHeat.self
        Alarm.self
    }
}
