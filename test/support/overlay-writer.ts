/** Writes nodes into a store until it is killed; prints the number of each batch after its commit. Argument: the database. */
import { Store } from '../../src/overlay/store/store.ts'

const store = new Store({ file: process.argv[2]! })
store.putAccount({ name: 'a', salt: new Uint8Array(16), hash: new Uint8Array(32), disabled: false })
const keyId = new Uint8Array(16)
for (;;) {
  let number = 0
  for (let i = 0; i < 10; i++) {
    number = store.takeNumber()
    new DataView(keyId.buffer).setUint32(0, number)
    store.putNode({ name: `n${number}.example`, account: 'a', publicKey: keyId, keyId, key: keyId })
    store.setNumber(`n${number}.example`, number)
  }
  store.commit()
  process.stdout.write(`${number}\n`)
}
