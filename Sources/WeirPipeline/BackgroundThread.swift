import Foundation

/// Threads that bring events into the stores, and others that must not delay lookups.
package enum BackgroundThread {
    /// Lookups of the same machine go first: on busy cores a thread of this niceness gets about a tenth of the time of one that answers.
    private static let niceness: Int32 = 10

    package static func start(_ name: String, _ body: @escaping @Sendable () -> Void) {
        let thread = Thread {
            #if os(Linux)
                // There a thread has a priority of its own; elsewhere this would be the whole process's.
                setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness)
            #endif
            body()
        }
        thread.name = name
        thread.stackSize = 8 << 20
        thread.start()
    }
}
