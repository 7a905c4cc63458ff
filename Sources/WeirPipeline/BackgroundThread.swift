import Foundation

/// A thread that brings events into the stores, or another that must not delay lookups.
package final class BackgroundThread: @unchecked Sendable {
    // What is mutable is guarded by `condition`.
    private var body: (@Sendable () -> Void)?
    private var isDone = false
    private let condition = NSCondition()

    /// Lookups of the same machine go first: on busy cores a thread of this niceness gets about a tenth of the time of one that answers.
    private static let niceness: Int32 = 10

    private init(_ body: @escaping @Sendable () -> Void) { self.body = body }

    @discardableResult
    package static func start(_ name: String, _ body: @escaping @Sendable () -> Void) -> BackgroundThread {
        let background = BackgroundThread(body)
        let thread = Thread {
            #if os(Linux)
                // There a thread has a priority of its own; elsewhere this would be the whole process's.
                setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness)
            #endif
            background.run()
        }
        thread.name = name
        thread.stackSize = 8 << 20
        thread.start()
        return background
    }

    private func run() {
        body?()
        condition.lock()
        body = nil
        isDone = true
        condition.broadcast()
        condition.unlock()
    }

    /// Waits until the thread has ended, and holds nothing any more of what it worked with: a store may be opened again then.
    package func join() {
        condition.lock()
        while !isDone { condition.wait() }
        condition.unlock()
    }
}
