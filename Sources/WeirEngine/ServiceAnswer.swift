import WeirAlgebra
import WeirDefinitions

extension ServicePlan {
    /// The service's outputs from its joins' results.
    package func finish(_ request: any Sendable, _ joined: [[FeatureResult]]) -> [FeatureResult] {
        outputs.map { output in
            switch output.computation {
            case .feature(let join, let feature): return joined[join][feature]
            case .onDemand(let inputs, let compute):
                let value = compute(
                    inputs.map { input in
                        switch input {
                        case .feature(let join, let feature): joined[join][feature].value
                        case .request(let read): read(request)
                        }
                    })
                return FeatureResult(value, value == .null ? .nullValue : .present)
            }
        }
    }
}
