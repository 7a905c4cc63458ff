import Dispatch
import Synchronization

/// Runs tasks on some threads, each of which takes the next one when it is done; after a failure no further one is begun.
///
/// - Parameter body: gets the worker's number and the task's.
/// - Throws: the first failure.
func inParallel(workers: Int, tasks: Int, _ body: @Sendable (_ worker: Int, _ task: Int) throws -> Void) throws {
    let next = Atomic<Int>(0)
    let failure = Mutex<(any Error)?>(nil)
    DispatchQueue.concurrentPerform(iterations: max(1, min(workers, tasks))) { worker in
        while failure.withLock({ $0 == nil }) {
            let task = next.add(1, ordering: .relaxed).oldValue
            guard task < tasks else { return }
            do { try body(worker, task) } catch { failure.withLock { if $0 == nil { $0 = error } } }
        }
    }
    if let failure = failure.withLock({ $0 }) { throw failure }
}
