import WeirServer

/// What the HTTP port serves.
struct HTTPService: HTTPBackend {
    let features: OnlineFeatureReader
    let monitor: StoreMonitor
    let catalogDescription: ReplyValue
    /// The server of the lookups' port.
    let resp: RESPServer
    let process: ProcessMetrics
    let version: String
    /// Further metrics.
    let others: @Sendable () -> [MetricFamily]
    /// Why the process is about to end; nil while it is not.
    let failure: @Sendable () -> (any Error)?

    func onlineFeatures(_ request: OnlineFeaturesRequest) throws(HTTPProblem) -> OnlineFeatures { try features.read(request) }

    func catalog() -> ReplyValue { catalogDescription }

    func metrics() -> [MetricFamily] {
        [MetricFamily("weir_build_info", .gauge, "Always 1.", [.init(1, MetricFamily.labels(["version": version]))])]
            + resp.metricFamilies + monitor.metrics() + others() + process.families()
    }

    func readiness() -> ReadyState { failure().map { .notReady("\($0)") } ?? monitor.readiness() }
}
