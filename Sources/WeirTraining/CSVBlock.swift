import WeirAlgebra
import WeirEngine
import WeirLookup
import WeirRecords

/// Some rows of a training set as text.
struct CSVBlock: Sendable {
    private(set) var bytes: [UInt8] = []
    /// One a feature.
    private(set) var statistics: [ColumnStatistics]

    /// - Parameters:
    ///   - firstRow: the block's first row among the chunk's.
    ///   - statistics: of no rows, one a feature.
    init(
        _ block: SpineBlock, firstRow: Int, _ chunk: TrainingSet.Chunk, _ service: ServiceRuntime, _ statistics: [ColumnStatistics]
    ) {
        self.statistics = statistics
        bytes.reserveCapacity(block.text.count + block.count * (1 + 20 * service.outputs.count))
        for row in 0..<block.count {
            bytes.append(contentsOf: block.text[block.text(row)])
            for (index, output) in service.outputs.enumerated() {
                bytes.append(UInt8(ascii: ","))
                switch output {
                case .feature(let join, let result): append(chunk.tables[join][firstRow + row, result], index)
                case .onDemand(let inputs, let compute):
                    append(
                        compute(
                            inputs.map { input in
                                switch input {
                                case .feature(let join, let result): chunk.tables[join][firstRow + row, result]
                                case .request(let read): read(block.requests[row])
                                }
                            }), index)
                }
            }
            bytes.append(0x0A)
        }
    }

    private mutating func append(_ value: FeatureValue, _ output: Int) {
        statistics[output].add(value)
        switch value {
        case .null: break
        case .double(let number): appendNumber { NumberText.write(number, to: $0) }
        case .int(let number): appendNumber { NumberText.write(number, to: $0) }
        default: CSVText.appendField(value.text ?? "", to: &bytes)
        }
    }

    private mutating func appendNumber(_ write: (UnsafeMutablePointer<UInt8>) -> Int) {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: NumberText.bytesMax) { text in
            let count = write(text.baseAddress!)
            bytes.append(contentsOf: UnsafeBufferPointer(rebasing: text[..<count]))
        }
    }
}
