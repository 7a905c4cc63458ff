// WeirTraining
