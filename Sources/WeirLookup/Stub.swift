// WeirLookup
