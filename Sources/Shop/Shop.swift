import ExampleFeatures
import Weir

/// The example repository's executable, `weir`.
@main struct Shop: FeatureStoreApp {
    var catalog: Catalog {
        HouseholdSpend.self
        BasketActivity.self
        StoreTraffic.self
        StoreHours.self
        CheckoutOffer.self
    }
}
