import Foundation
import WeirAlgebra
import WeirDefinitions
import WeirRecords

/// Finds an entity in exported training sets.
package struct ExportSearch {
    private let catalog: CatalogPlan
    private let entity: String
    private let key: String

    /// - Parameter key: the canonical one.
    package init(catalog: CatalogPlan, entity: String, key: String) {
        self.catalog = catalog
        self.entity = entity
        self.key = key
    }

    /// Training sets with their manifests: a file, or all of a directory and those below it.
    package func trainingSets(at path: String) throws -> [String] {
        var isDirectory: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory) else {
            throw ExportError("there is no file or directory \(path)")
        }
        let suffix = ".manifest.json"
        guard isDirectory.boolValue else {
            guard FileManager.default.fileExists(atPath: path + suffix) else {
                throw ExportError("\(path) is no exported training set: its manifest \(path)\(suffix) is not there")
            }
            return [path]
        }
        return try FileManager.default.subpathsOfDirectory(atPath: path).sorted().filter { $0.hasSuffix(suffix) }
            .map { path + "/" + String($0.dropLast(suffix.count)) }.filter { FileManager.default.fileExists(atPath: $0) }
    }

    /// How many rows of a training set are requests that name the entity.
    package func rows(in path: String) throws -> Int {
        struct Manifest: Decodable { var service: String }
        let manifest = path + ".manifest.json"
        guard let json = FileManager.default.contents(atPath: manifest), let known = try? JSONDecoder().decode(Manifest.self, from: json)
        else { throw ExportError("\(manifest) is no manifest of a training set") }
        guard let service = catalog.service(named: known.service) else {
            throw ExportError("\(path) was exported for the service '\(known.service)', which the definitions do not have")
        }
        let joins = service.trainingJoins.filter { $0.view.entity == entity }
        if joins.isEmpty { return 0 }
        var file = try CSVFile(path: path, schema: service.requestSchema)
        let decoder = service.makeRowDecoder(service.requestSchema)
        var found = 0
        while true {
            let records: RecordBatch
            do { records = try file.next(rows: Limits.recordsPerFileBatch) } catch let error as RecordError {
                throw ExportError("\(path): \(error)")
            }
            if let malformed = records.malformed.first {
                throw ExportError("\(path), byte \(malformed.offset): \(malformed.reason); it is not as it was exported")
            }
            if records.rows.isEmpty { break }
            decoder.load(records)
            for row in records.rows.indices {
                do {
                    let request = try decoder.decode(row: row)
                    if joins.contains(where: { $0.key(request) == key }) { found += 1 }
                } catch {
                    throw ExportError("\(path), byte \(records.rows[row].offset): \(error); it is not as it was exported")
                }
            }
        }
        return found
    }
}
