import Foundation

/// A queue between two threads that makes the sender wait where the receiver falls behind.
package final class BoundedQueue<Element: Sendable>: @unchecked Sendable {
    // Everything is guarded by `condition`.
    private let condition = NSCondition()
    private var elements: [Element] = []
    private var isClosed = false
    private let capacity: Int
    private let cost: @Sendable (Element) -> Int
    /// Of the elements in the queue.
    private var load = 0

    /// - Parameters:
    ///   - capacity: the queue takes one more element while its elements cost less than this.
    ///   - cost: of an element, at least 1.
    package init(capacity: Int, cost: @escaping @Sendable (Element) -> Int) {
        self.capacity = capacity
        self.cost = cost
    }

    /// Waits for room. Returns false where the queue is closed.
    @discardableResult
    package func send(_ element: Element) -> Bool {
        condition.lock()
        defer { condition.unlock() }
        while load >= capacity, !isClosed { condition.wait() }
        if isClosed { return false }
        elements.append(element)
        load += cost(element)
        condition.broadcast()
        return true
    }

    /// Waits for an element, then takes as many as `fits` accepts, at least one. nil where the queue is closed and empty.
    ///
    /// - Parameter timeout: seconds after which nothing is returned; nil waits for as long as it takes.
    package func receive(timeout: Double? = nil, while fits: ([Element], Element) -> Bool) -> [Element]? {
        let deadline = timeout.map { Date(timeIntervalSinceNow: $0) }
        condition.lock()
        defer { condition.unlock() }
        while elements.isEmpty, !isClosed {
            if let deadline {
                if !condition.wait(until: deadline) { return [] }
            } else {
                condition.wait()
            }
        }
        if elements.isEmpty { return nil }
        var taken: [Element] = []
        while let next = elements.first, taken.isEmpty || fits(taken, next) {
            taken.append(next)
            load -= cost(next)
            elements.removeFirst()
        }
        condition.broadcast()
        return taken
    }

    /// The receiver still gets what is in the queue.
    package func close() {
        condition.lock()
        isClosed = true
        condition.broadcast()
        condition.unlock()
    }
}
