import CLMDB
import Foundation
import Synchronization
import WeirEngine

/// What LMDB refused: which operation, on which file, and what to do.
package struct LMDBError: Error, CustomStringConvertible {
    package let code: Int32
    package let operation: String
    package let path: String

    package var description: String {
        let text = String(cString: mdb_strerror(code))
        let advice =
            switch code {
            case MDB_MAP_FULL: "the memory map is full and could not be made larger"
            case MDB_MAP_RESIZED: "another process has made the file larger"
            case MDB_READERS_FULL: "too many processes or threads read at once"
            case MDB_CORRUPTED, MDB_PAGE_NOTFOUND, MDB_INVALID:
                "the file is damaged; `weir rebuild` makes the online store anew from the history"
            case MDB_VERSION_MISMATCH: "the file was made by another version of LMDB; `weir rebuild` makes it anew"
            case ENOSPC, EFBIG, EDQUOT: "the disk is full; free some space and start again, nothing is lost"
            case EIO: "the disk refused; check it and its free space, and start again, nothing is lost"
            case ENOMEM: "there is no address space for the map; begin with a smaller one: --map-size"
            case EACCES: "check the rights of the directory"
            default: "if it persists, `weir rebuild` makes the online store anew from the history"
            }
        return "\(operation) \(path): \(text) (LMDB code \(code)); \(advice)"
    }
}

/// One LMDB environment with one unnamed database.
final class LMDBEnvironment: @unchecked Sendable {
    // An MDB_env may be used from any thread; the readers are guarded by their mutex.
    let path: String
    let dbi: MDB_dbi
    private let environment: OpaquePointer
    private let readers = Mutex(Readers())

    private struct Readers {
        var idle: [LMDBReadTransaction] = []
        var active = 0
        /// The map is about to move: new readers wait.
        var isMoving = false
    }

    private static let guardMaps: Void = weir_guard_maps()

    /// - Parameter mapBytes: the address space that the map begins with; it grows when the file outgrows it.
    init(path: String, readOnly: Bool, isSynced: Bool, mapBytes: Int) throws(LMDBError) {
        Self.guardMaps
        self.path = path
        var environment: OpaquePointer?
        func check(_ code: Int32, _ operation: String) throws(LMDBError) {
            guard code != 0 else { return }
            if let environment { mdb_env_close(environment) }
            throw LMDBError(code: code, operation: operation, path: path)
        }
        try check(mdb_env_create(&environment), "creating")
        weir_guard_environment(environment)
        try check(mdb_env_set_mapsize(environment, mapBytes), "sizing")
        try check(mdb_env_set_maxreaders(environment, 1_024), "configuring")
        var flags = UInt32(MDB_NOTLS | MDB_NORDAHEAD | MDB_NOMETASYNC)
        if readOnly { flags |= UInt32(MDB_RDONLY) }
        if !isSynced { flags |= UInt32(MDB_NOSYNC) }
        try check(mdb_env_open(environment, path, flags, 0o644), "opening")
        var dead: Int32 = 0
        try check(mdb_reader_check(environment, &dead), "checking the readers of")
        var transaction: OpaquePointer?
        try check(mdb_txn_begin(environment, nil, readOnly ? UInt32(MDB_RDONLY) : 0, &transaction), "opening")
        var dbi: MDB_dbi = 0
        let opened = mdb_dbi_open(transaction, nil, 0, &dbi)
        if opened != 0 { mdb_txn_abort(transaction) }
        try check(opened, "opening")
        try check(mdb_txn_commit(transaction), "opening")
        self.environment = environment!
        self.dbi = dbi
    }

    deinit {
        readers.withLock { $0.idle = [] }
        mdb_env_close(environment)
    }

    func beginWrite() throws(LMDBError) -> LMDBWriteTransaction {
        var transaction: OpaquePointer?
        let code = mdb_txn_begin(environment, nil, 0, &transaction)
        guard code == 0, let transaction else { throw LMDBError(code: code, operation: "writing to", path: path) }
        return try LMDBWriteTransaction(transaction, self)
    }

    /// A snapshot of the last commit; give it back with `release`. Reusing one costs some hundred nanoseconds.
    ///
    /// - Parameter beforeWaiting: is called where it has to wait for the map to move: lets go of other environments' snapshots, since their
    ///   maps may be waiting for those.
    func acquireReader(beforeWaiting: () -> Void = {}) throws(LMDBError) -> LMDBReadTransaction {
        while true {
            do throws(LMDBError) {
                return try tryAcquire(beforeWaiting)
            } catch {
                release(nil)
                // The writing process has outgrown the map of this one. Moving it waits for other threads' snapshots of this
                // environment, and those threads may be moving an environment of which this thread has one.
                guard error.code == MDB_MAP_RESIZED else { throw error }
                beforeWaiting()
                try move(to: 0)
            }
        }
    }

    private func tryAcquire(_ beforeWaiting: () -> Void) throws(LMDBError) -> LMDBReadTransaction {
        var reader: LMDBReadTransaction?
        while !readers.withLock({ readers in
            if readers.isMoving { return false }
            readers.active += 1
            reader = readers.idle.popLast()
            return true
        }) {
            beforeWaiting()
            usleep(50)
        }
        if let reader {
            try reader.renew()
            return reader
        }
        var transaction: OpaquePointer?
        let code = mdb_txn_begin(environment, nil, UInt32(MDB_RDONLY), &transaction)
        guard code == 0, let transaction else { throw LMDBError(code: code, operation: "reading", path: path) }
        return try LMDBReadTransaction(transaction, dbi: dbi, path: path)
    }

    func release(_ reader: LMDBReadTransaction?) {
        reader?.reset()
        readers.withLock { readers in
            readers.active -= 1
            if let reader { readers.idle.append(reader) }
        }
    }

    /// Gives back the places of readers that nobody uses.
    func dropIdleReaders() { readers.withLock { $0.idle = [] } }

    /// Doubles the map; lookups wait for it. There must be no writing transaction.
    func grow() throws(LMDBError) {
        var info = MDB_envinfo()
        mdb_env_info(environment, &info)
        try move(to: info.me_mapsize * 2)
    }

    /// - Parameter bytes: 0 for what another process has made it.
    private func move(to bytes: Int) throws(LMDBError) {
        while !readers.withLock({ readers in
            if readers.isMoving { return false }
            readers.isMoving = true
            return true
        }) { usleep(50) }
        while readers.withLock({ $0.active }) > 0 { usleep(50) }
        let code = readers.withLock { readers in
            readers.idle = []
            let code = mdb_env_set_mapsize(environment, bytes)
            readers.isMoving = false
            return code
        }
        guard code == 0 else { throw LMDBError(code: code, operation: "enlarging the map of", path: path) }
    }

    var mapBytes: Int {
        var info = MDB_envinfo()
        mdb_env_info(environment, &info)
        return info.me_mapsize
    }

    /// Writes a consistent copy into an empty directory, beside readers and a writer.
    func copy(to directory: String) throws(LMDBError) {
        let code = mdb_env_copy2(environment, directory, UInt32(MDB_CP_COMPACT))
        guard code == 0 else { throw LMDBError(code: code, operation: "copying to \(directory)", path: path) }
    }

    /// Writes what a snapshot of another environment has into this one, which is empty.
    ///
    /// Entry by entry, unlike `copy`: pages that are copied as they are take along what stood in their gaps.
    func append(_ other: LMDBEnvironment) throws {
        let reader = try other.acquireReader()
        defer { other.release(reader) }
        let cursor = try LMDBCursor(reader)
        // No key is shorter.
        var entry = try [UInt8](repeating: 0, count: 1).withUnsafeBytes { try cursor.seek($0) }
        while entry != nil {
            let transaction = try beginWrite()
            var bytes = 0
            while let (key, value) = entry, bytes < Self.bytesPerTransaction {
                try transaction.append(key, value)
                bytes += key.count + value.count
                entry = try cursor.next()
            }
            try transaction.commit()
        }
    }

    private static let bytesPerTransaction = 64 << 20

    /// Waits until the disk has every commit.
    func sync() throws(LMDBError) {
        let code = mdb_env_sync(environment, 1)
        guard code == 0 else { throw LMDBError(code: code, operation: "syncing", path: path) }
    }

    /// Places for readers: those that were ever in use at a time, by all processes, and all there are.
    var readerSlots: (used: Int, max: Int) {
        var info = MDB_envinfo()
        mdb_env_info(environment, &info)
        return (Int(info.me_numreaders), Int(info.me_maxreaders))
    }

    /// Bytes of the pages in use.
    var usedBytes: Int {
        var info = MDB_envinfo()
        var stat = MDB_stat()
        mdb_env_info(environment, &info)
        mdb_env_stat(environment, &stat)
        return (info.me_last_pgno + 1) * Int(stat.ms_psize)
    }
}

/// What reading and writing transactions share: a cursor that finds keys.
class LMDBTransaction {
    let handle: OpaquePointer
    let path: String
    let dbi: MDB_dbi
    private(set) var cursor: OpaquePointer

    init(_ handle: OpaquePointer, dbi: MDB_dbi, path: String) throws(LMDBError) {
        self.handle = handle
        self.dbi = dbi
        self.path = path
        var cursor: OpaquePointer?
        let code = mdb_cursor_open(handle, dbi, &cursor)
        guard code == 0, let cursor else {
            mdb_txn_abort(handle)
            throw LMDBError(code: code, operation: "reading", path: path)
        }
        self.cursor = cursor
    }

    typealias Entry = (key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer)

    func get(_ key: UnsafeRawBufferPointer) throws(LMDBError) -> UnsafeRawBufferPointer? {
        var key = MDB_val(key)
        var value = MDB_val()
        let code = mdb_get(handle, dbi, &key, &value)
        if code == MDB_NOTFOUND { return nil }
        guard code == 0 else { throw LMDBError(code: code, operation: "reading", path: path) }
        return UnsafeRawBufferPointer(value)
    }

    /// The value of `key`; the cursor stays where it is, which makes writing it cheaper.
    func find(_ key: UnsafeRawBufferPointer) throws(LMDBError) -> UnsafeRawBufferPointer? {
        try move(key, MDB_SET_KEY)?.value
    }

    /// The first entry at or after `key`.
    func seek(_ key: UnsafeRawBufferPointer) throws(LMDBError) -> Entry? {
        try move(key, MDB_SET_RANGE)
    }

    /// The entry behind the one found last.
    func next() throws(LMDBError) -> Entry? { try move(nil, MDB_NEXT) }

    /// The last entry before `key`.
    func seekBefore(_ key: UnsafeRawBufferPointer) throws(LMDBError) -> Entry? {
        try move(key, MDB_SET_RANGE) == nil ? try move(nil, MDB_LAST) : try move(nil, MDB_PREV)
    }

    private func move(_ key: UnsafeRawBufferPointer?, _ operation: MDB_cursor_op) throws(LMDBError) -> Entry? {
        try moveCursor(cursor, key, operation, path)
    }
}

final class LMDBReadTransaction: LMDBTransaction, @unchecked Sendable {
    // With MDB_NOTLS a read transaction may move between threads; the pool hands it to one at a time.
    func reset() { mdb_txn_reset(handle) }

    /// The shard's state as of the snapshot.
    private(set) var state = ShardState(views: 0)
    private var stateSnapshot = -1

    /// Reads the state, where there was a commit since it was read last.
    func readState(_ read: (LMDBTransaction) throws -> ShardState) throws {
        let snapshot = Int(mdb_txn_id(handle))
        guard stateSnapshot != snapshot else { return }
        state = try read(self)
        stateSnapshot = snapshot
    }

    /// From when on the shard keeps a view's events, in microseconds.
    func keptFrom(view: Int) -> Int64 { state.keptFrom[view] }

    func renew() throws(LMDBError) {
        var code = mdb_txn_renew(handle)
        if code == 0 { code = mdb_cursor_renew(handle, cursor) }
        guard code == 0 else { throw LMDBError(code: code, operation: "reading", path: path) }
    }

    deinit {
        mdb_cursor_close(cursor)
        mdb_txn_abort(handle)
    }
}

/// A further place in a transaction's entries; not to be used beyond it.
final class LMDBCursor {
    private let cursor: OpaquePointer
    private let path: String

    init(_ transaction: LMDBTransaction) throws(LMDBError) {
        path = transaction.path
        var cursor: OpaquePointer?
        let code = mdb_cursor_open(transaction.handle, transaction.dbi, &cursor)
        guard code == 0, let cursor else { throw LMDBError(code: code, operation: "reading", path: path) }
        self.cursor = cursor
    }

    deinit { mdb_cursor_close(cursor) }

    /// The first entry at or after `key`.
    func seek(_ key: UnsafeRawBufferPointer) throws(LMDBError) -> LMDBTransaction.Entry? {
        try moveCursor(cursor, key, MDB_SET_RANGE, path)
    }

    /// The entry behind the one found last.
    func next() throws(LMDBError) -> LMDBTransaction.Entry? { try moveCursor(cursor, nil, MDB_NEXT, path) }
}

private func moveCursor(
    _ cursor: OpaquePointer, _ key: UnsafeRawBufferPointer?, _ operation: MDB_cursor_op, _ path: String
) throws(LMDBError) -> LMDBTransaction.Entry? {
    var key = key.map { MDB_val($0) } ?? MDB_val()
    var value = MDB_val()
    let code = mdb_cursor_get(cursor, &key, &value, operation)
    if code == MDB_NOTFOUND { return nil }
    guard code == 0 else { throw LMDBError(code: code, operation: "reading", path: path) }
    return (UnsafeRawBufferPointer(key), UnsafeRawBufferPointer(value))
}

final class LMDBWriteTransaction: LMDBTransaction {
    private let environment: LMDBEnvironment
    private var isOpen = true

    init(_ handle: OpaquePointer, _ environment: LMDBEnvironment) throws(LMDBError) {
        self.environment = environment
        try super.init(handle, dbi: environment.dbi, path: environment.path)
    }

    deinit { abort() }

    var entryCount: Int {
        var stat = MDB_stat()
        mdb_stat(handle, dbi, &stat)
        return stat.ms_entries
    }

    func put(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws(LMDBError) {
        var key = MDB_val(key)
        var value = MDB_val(value)
        // The cursor mostly stands on the key's page already, where it was looked for.
        let code = mdb_cursor_put(cursor, &key, &value, 0)
        guard code == 0 else { throw LMDBError(code: code, operation: "writing to", path: path) }
    }

    /// The same for a key behind all others: pages are filled one after another.
    func append(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws(LMDBError) {
        var key = MDB_val(key)
        var value = MDB_val(value)
        let code = mdb_cursor_put(cursor, &key, &value, UInt32(MDB_APPEND))
        guard code == 0 else { throw LMDBError(code: code, operation: "writing to", path: path) }
    }

    func delete(_ key: UnsafeRawBufferPointer) throws(LMDBError) {
        var key = MDB_val(key)
        let code = mdb_del(handle, dbi, &key, nil)
        guard code == 0 || code == MDB_NOTFOUND else { throw LMDBError(code: code, operation: "writing to", path: path) }
    }

    /// Deletes the entry that `seek` or `next` found last; `next` goes on behind it.
    func deleteFound() throws(LMDBError) {
        let code = mdb_cursor_del(cursor, 0)
        guard code == 0 else { throw LMDBError(code: code, operation: "writing to", path: path) }
    }

    func commit() throws(LMDBError) {
        guard isOpen else { return }
        isOpen = false
        mdb_cursor_close(cursor)
        let code = mdb_txn_commit(handle)
        guard code == 0 else { throw LMDBError(code: code, operation: "committing to", path: path) }
    }

    func abort() {
        guard isOpen else { return }
        isOpen = false
        mdb_cursor_close(cursor)
        mdb_txn_abort(handle)
    }
}

extension MDB_val {
    fileprivate init(_ bytes: UnsafeRawBufferPointer) {
        self.init(mv_size: bytes.count, mv_data: UnsafeMutableRawPointer(mutating: bytes.baseAddress))
    }
}

extension UnsafeRawBufferPointer {
    fileprivate init(_ value: MDB_val) {
        self.init(start: value.mv_data, count: value.mv_size)
    }
}
