// WeirSources
