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
            // Kept only where a feature is computed from them.
            let request: any Sendable = block.requests.isEmpty ? () : block.requests[row]
            for (index, output) in service.outputs.enumerated() {
                bytes.append(UInt8(ascii: ","))
                append(output.value(request) { chunk.tables[$0][firstRow + row, $1] }, index)
            }
            bytes.append(0x0A)
        }
    }

    private mutating func append(_ value: FeatureValue, _ output: Int) {
        statistics[output].add(value)
        switch value {
        case .null: break
        case .int, .double, .bool: value.appendJSON(to: &bytes)
        case .string, .list, .map: CSVText.appendField(value.text ?? "", to: &bytes)
        }
    }
}
