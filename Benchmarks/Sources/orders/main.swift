import Weir
import Workload

struct Orders: FeatureStoreApp {
    var catalog: Catalog {
        HourlySpend.self
        MonthlySpend.self
        CustomerSpend.self
        OneWindow.self
        FiveWindows.self
        TwentyWindows.self
        CustomerFeatures.self
    }
}

await Orders.main()
