/**
 * A server of the overlay under load, for tests of its database: logs nodes in, gives them numbers and leases, removes some, several to a
 * commit. Prints a line of JSON before every commit, and one that says whether it was acknowledged; if not, it may have been carried out.
 * Arguments: JSON of StoreInit, name of this writer (none: it only opens the store), seed. Ends at the end of its input.
 */
import { Store, type StoreInit } from '../../src/overlay/store/store.ts'
import { bytesOf, NODES, type WriterLine, type Written } from './postgres-written.ts'

const [init, name = '', seed = '1'] = process.argv.slice(2)

function say(line: WriterLine): void {
  process.stdout.write(`${JSON.stringify(line)}\n`)
}

function load(store: Store): void {
  let state = Number(seed) >>> 0
  const random = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  let version = Date.now() % 1_000_000_000
  const write = (): Written => {
    const at = random(NODES)
    const account = `${name}${at}`
    const node = `${account}.example`
    if (store.account(account) !== undefined && random(12) === 0) {
      store.removeAccount(account)
      return { node, version: 0, number: 0 }
    }
    version++
    const hidden = { salt: new Uint8Array(16), hash: new Uint8Array(32) }
    if (store.account(account) === undefined) store.putAccount({ name: account, ...hidden, disabled: false })
    const publicKey = bytesOf(32, name, at, 0)
    const [keyId, key] = [bytesOf(16, name, at, version), bytesOf(32, name, at, version)]
    store.putNode({ name: node, account, publicKey, keyId, key, expires: version })
    let number = store.numberOf(node) ?? 0
    if (/"holds":(true|"shared")/.test(init!)) {
      if (number === 0) {
        number = store.takeNumber()
        store.setNumber(node, number)
      }
      store.setLease(node, bytesOf(48, name, number, version))
    }
    return { node, version, number }
  }
  const turn = () => {
    const begun = performance.now()
    const written: Written[] = []
    const ms = () => Math.round(performance.now() - begun)
    let pause = 1
    try {
      store.refresh()
      for (let left = 1 + random(8); left > 0; left--) written.push(write())
      say({ is: 'tries', written })
      store.commit()
      say({ is: 'acknowledged', written, ms: ms() })
    } catch (error) {
      const { code, message } = error as { code: string; message: string }
      if (code === 'STORE_TAKEN') {
        say({ is: 'ended', code, message })
        process.exit(3)
      }
      if (code !== 'STORE_AWAY') say({ is: 'ended', code, message })
      else say({ is: 'unknown', written, ms: ms() })
      pause = 20
    }
    setTimeout(turn, pause)
  }
  turn()
}

if (init !== undefined) {
  try {
    const store = new Store(JSON.parse(init) as StoreInit)
    process.stdin.on('end', () => {
      try {
        store.close()
      } catch {}
      process.exit(0)
    })
    process.stdin.resume()
    say({ is: 'open' })
    if (name !== '') load(store)
  } catch (error) {
    const { code, message } = error as { code: string; message: string }
    say({ is: 'ended', code, message })
    process.exit(1)
  }
}
