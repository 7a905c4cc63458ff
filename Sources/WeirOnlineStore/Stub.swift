// WeirOnlineStore
