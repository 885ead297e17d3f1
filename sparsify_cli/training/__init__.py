"""The one loop, the guard of masks and frozen values, batch norm."""
