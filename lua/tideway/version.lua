-- SPDX-License-Identifier: BSD-3-Clause
-- The version of Tideway, the one place that names it.

return "0.1.0"
