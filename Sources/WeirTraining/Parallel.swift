import Dispatch
import Synchronization

/// Runs tasks on some threads, each of which takes the next one when it is done; after a failure no further one is begun.
///
/// - Parameter body: gets the worker's number and the task's.
/// - Throws: the first failure.
func inParallel(workers: Int, tasks: Int, _ body: @Sendable (_ worker: Int, _ task: Int) throws -> Void) throws {
    try inParallel(workers: workers, taking: tasks) { worker, next in
        while let task = next() { try body(worker, task) }
    }
}

/// The same for workers that keep something from one task to the next.
///
/// - Parameter body: gets the worker's number, and what gives it tasks, each one behind those that it had.
func inParallel(workers: Int, taking tasks: Int, _ body: @Sendable (_ worker: Int, _ next: () -> Int?) throws -> Void) throws {
    let count = Atomic<Int>(0)
    let failure = Mutex<(any Error)?>(nil)
    DispatchQueue.concurrentPerform(iterations: max(1, min(workers, tasks))) { worker in
        func next() -> Int? {
            guard failure.withLock({ $0 == nil }) else { return nil }
            let task = count.add(1, ordering: .relaxed).oldValue
            return task < tasks ? task : nil
        }
        do { try body(worker, next) } catch { failure.withLock { if $0 == nil { $0 = error } } }
    }
    if let failure = failure.withLock({ $0 }) { throw failure }
}

/// Makes something of each task on some threads and hands it over in the order of the tasks: whichever thread has made the next one hands
/// it over, and those behind it that are there, while others go on.
///
/// - Parameters:
///   - make: gets a task's number.
///   - use: is called by one thread at a time.
func inParallel<T: Sendable>(
    workers: Int, tasks: Int, _ make: @Sendable (Int) throws -> T, inOrder use: @Sendable (T) throws -> Void
) throws {
    let made = Mutex<(waiting: [Int: T], next: Int, isInUse: Bool)>(([:], 0, false))
    // A slow `use` must not let what waits for it grow without bounds. Who takes the lowest task has room, so that it goes on.
    let waitingMax = 4 * workers
    let room = DispatchSemaphore(value: waitingMax)
    try inParallel(workers: workers, taking: tasks) { _, next in
        do {
            while true {
                room.wait()
                guard let task = next() else {
                    room.signal()
                    return
                }
                let new = try make(task)
                let isOurs = made.withLock { made in
                    made.waiting[task] = new
                    defer { made.isInUse = true }
                    return !made.isInUse
                }
                while isOurs {
                    let ready = made.withLock { made in
                        let ready = made.waiting.removeValue(forKey: made.next)
                        if ready == nil { made.isInUse = false } else { made.next += 1 }
                        return ready
                    }
                    guard let ready else { break }
                    try use(ready)
                    room.signal()
                }
            }
        } catch {
            // Nobody waits for room any more.
            for _ in 0..<waitingMax + workers { room.signal() }
            throw error
        }
    }
}

/// What is made on another thread meanwhile.
final class Promise<T: Sendable>: Sendable {
    private let done = DispatchGroup()
    private let result = Mutex<Result<T, any Error>?>(nil)

    init(_ make: @escaping @Sendable () throws -> T) {
        DispatchQueue.global().async(group: done) {
            let made = Result(catching: make)
            self.result.withLock { $0 = made }
        }
    }

    /// Waits for it.
    var value: T {
        get throws {
            done.wait()
            return try result.withLock { $0! }.get()
        }
    }
}
