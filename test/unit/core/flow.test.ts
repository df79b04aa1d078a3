import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatEndpoint, protocolName, protocolNumber } from '../../../src/core/flow.ts'

test('names of protocols and endpoints', () => {
  assert.equal(formatEndpoint(Uint8Array.of(10, 0, 0, 1), 80), '10.0.0.1:80')
  assert.equal(formatEndpoint(new Uint8Array(16), 2), '[::]:2')
  for (let number = 0; number < 256; number++) assert.equal(protocolNumber(protocolName(number)), number)
  assert.equal(protocolNumber('256'), undefined)
  assert.equal(protocolNumber('nonsense'), undefined)
})
