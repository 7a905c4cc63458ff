import WeirAlgebra

/// Makes the features of a view: inside a `FeatureView` it is called `Aggregate`, and knows the view's event.
///
/// Every function takes the property to aggregate (optional properties are skipped where they are nil) and the window.
/// Without events count and sum are 0, lists are empty, and everything else is null.
public enum Aggregations<Source: Event> {
    /// How many events there are.
    public static func count(over window: Window) -> Feature<Source, Int> {
        Feature(
            node: AggregateNode(
                .init(
                    explicitName: nil, type: .int, aggregation: Count<Bool>(), column: nil, window: window, filter: nil)))
    }

    /// How many events have a value in an optional property.
    public static func count<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, Int> {
        custom(Count<C.Column>(), column, over: window)
    }

    /// The exact sum, rounded once: a `Double` for floating-point properties, an `Int` (null when it overflows) for integers.
    public static func sum<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, C.Column.SumValue> where C.Column: SummableColumn & FeatureColumn {
        custom(Sum<C.Column>(), column, over: window)
    }

    /// The exact sum, rounded once, divided by the count.
    public static func mean<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, Double> where C.Column: SummableColumn {
        custom(Mean<C.Column>(), column, over: window)
    }

    /// The sample's variance (n − 1); null below two values.
    public static func variance<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, Double> where C.Column: SummableColumn {
        custom(Variance<C.Column>(), column, over: window)
    }

    /// The square root of the sample's variance; null below two values.
    public static func standardDeviation<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, Double> where C.Column: SummableColumn {
        custom(StandardDeviation<C.Column>(), column, over: window)
    }

    /// The smallest value; texts compare as UTF-8 bytes.
    public static func min<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, C.Column.Element> where C.Column: OrderedColumn {
        custom(Minimum<C.Column>(), column, over: window)
    }

    /// The largest value; texts compare as UTF-8 bytes.
    public static func max<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, C.Column.Element> where C.Column: OrderedColumn {
        custom(Maximum<C.Column>(), column, over: window)
    }

    /// The value of the earliest event, by event time, then id.
    public static func first<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window = .lifetime
    ) -> Feature<Source, C.Column.Element> where C.Column: FeatureColumn {
        custom(First<C.Column>(), column, over: window)
    }

    /// The value of the latest event, by event time, then id.
    public static func last<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window = .lifetime
    ) -> Feature<Source, C.Column.Element> where C.Column: FeatureColumn {
        custom(Last<C.Column>(), column, over: window)
    }

    /// The values of the `n` earliest events, earliest first.
    public static func first<C: ColumnConvertible>(
        _ n: Int, _ column: any KeyPath<Source, C> & Sendable, over window: Window = .lifetime
    ) -> Feature<Source, [C.Column.Element]> where C.Column: FeatureColumn {
        custom(FirstN<C.Column>(n), column, over: window)
    }

    /// The values of the `n` latest events, most recent first.
    public static func last<C: ColumnConvertible>(
        _ n: Int, _ column: any KeyPath<Source, C> & Sendable, over window: Window = .lifetime
    ) -> Feature<Source, [C.Column.Element]> where C.Column: FeatureColumn {
        custom(LastN<C.Column>(n), column, over: window)
    }

    /// How many different values there are: exact up to `exactUpTo`, beyond it an estimate by HyperLogLog (standard error 1.6 %).
    public static func distinctCount<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window, exactUpTo: Int = 512
    ) -> Feature<Source, Int> where C.Column: HashableColumn {
        custom(DistinctCount<C.Column>(exactUpTo: exactUpTo), column, over: window)
    }

    /// The `q` quantile (0 to 1), with a relative error of at most 1 %.
    public static func quantile<C: ColumnConvertible>(
        _ q: Double, of column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, Double> where C.Column: SketchableColumn {
        custom(Quantile<C.Column>(q), column, over: window)
    }

    /// The `k` most frequent values, most frequent first, ties by value. Null with status LIMIT beyond 1,000 different values.
    public static func topK<C: ColumnConvertible>(
        _ k: Int, _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, [C.Column.Element]> where C.Column: CountableColumn {
        custom(TopK<C.Column>(k), column, over: window)
    }

    /// How often each value occurs. Null with status LIMIT beyond 1,000 different values.
    public static func histogram<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, ValueHistogram> where C.Column: CountableColumn {
        custom(Histogram<C.Column>(), column, over: window)
    }

    /// The sum in which a value loses half of its weight with every `halfLife` that has passed since its event.
    public static func decayedSum<C: ColumnConvertible>(
        _ column: any KeyPath<Source, C> & Sendable, halfLife: Duration, over window: Window
    ) -> Feature<Source, Double> where C.Column == Double {
        custom(DecayedSum(halfLife: halfLife.wholeMicroseconds ?? 0), column, over: window)
    }

    /// An aggregation of your own.
    public static func custom<A: Aggregation, C: ColumnConvertible>(
        _ aggregation: A, _ column: any KeyPath<Source, C> & Sendable, over window: Window
    ) -> Feature<Source, A.Value> where C.Column == A.Accumulator.Input {
        Feature(
            node: AggregateNode(
                .init(
                    explicitName: nil, type: A.Value.featureType, aggregation: aggregation, column: ColumnReader(column),
                    window: window, filter: nil)))
    }
}
