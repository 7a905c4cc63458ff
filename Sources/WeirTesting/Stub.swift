// WeirTesting
