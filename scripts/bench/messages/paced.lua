-- SPDX-License-Identifier: BSD-3-Clause
-- For wrk: each connection waits so many milliseconds before each request: a load that is below the most.

local wait

-- luacheck: globals init delay
function init(args) wait = tonumber(args[1]) end

function delay() return wait end
