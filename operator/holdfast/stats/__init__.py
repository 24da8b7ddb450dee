"""Statistics of decisions: pure functions of counts. docs/statistics.md says what each one promises."""
