-- SPDX-License-Identifier: BSD-3-Clause
std = "luajit"
max_line_length = 120
codes = true
self = false
exclude_files = { "build" }
files["test"] = { std = "+busted", max_line_length = 200 }
