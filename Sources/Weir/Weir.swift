// What a feature repository needs is in these modules; `import Weir` brings them all.
@_exported import WeirAlgebra
@_exported import WeirDefinitions
@_exported import WeirRecords
