// Copyright: Contributors to the ephemera.preview project
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package page answers every request with one page: Traefik runs it from source, so that the
// gateway needs no web server beside it.
package page

import (
	"context"
	"io"
	"net/http"
)

// Config is what the middleware is given.
type Config struct {
	Status int
	Body   string
}

// CreateConfig gives a configuration to fill.
func CreateConfig() *Config { return &Config{} }

// New makes the middleware.
func New(_ context.Context, _ http.Handler, config *Config, _ string) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(config.Status)
		_, _ = io.WriteString(w, config.Body)
	}), nil
}
