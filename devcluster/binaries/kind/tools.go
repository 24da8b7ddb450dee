//go:build tools

// Package tools pins the program that devcluster builds.
package tools

import _ "sigs.k8s.io/kind"
