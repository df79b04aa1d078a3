/**
 * Loaded into a daemon before it (`--expose-gc --import`), in each of its threads: when the file COLLECT_ASKED changes, the thread collects
 * its garbage and writes the bytes of its heap to `COLLECT_ASKED.THREAD`. Engines have no timers, but ask for the time in each turn.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { getHeapStatistics } from 'node:v8'
import { threadId } from 'node:worker_threads'

const LOOK_MS = 50

const path = process.env.COLLECT_ASKED!
const { gc } = globalThis as unknown as { readonly gc: () => void }
const time = performance.now.bind(performance)
let lookedAt = 0
let done = ''

function look(): void {
  const asked = readFileSync(path, 'utf8')
  if (asked === done) return
  done = asked
  // Twice: the first lets finalizers run.
  gc()
  gc()
  const { used_heap_size, external_memory } = getHeapStatistics()
  writeFileSync(`${path}.${threadId}`, JSON.stringify({ asked, bytes: used_heap_size + external_memory }))
}

performance.now = () => {
  const now = time()
  if (now - lookedAt > LOOK_MS) {
    lookedAt = now
    look()
  }
  return now
}
setInterval(() => performance.now(), LOOK_MS).unref()
