// WeirHistory
