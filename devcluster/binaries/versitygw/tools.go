//go:build tools

// Package tools pins what devcluster builds here: see ../../holdfast_devcluster/binaries.py.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"
