import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseAddress } from '../../../src/core/address.ts'
import { type FlowFacts, formatSelector, matches, parseSelector } from '../../../src/core/selector.ts'

test('UP-2: selectors name everything, a flow, an application, ports, a user, a destination, a cgroup', () => {
  const texts = [
    'all',
    'f12',
    'app:curl',
    'app:/usr/bin/curl',
    'port:80',
    'port:8000-8080',
    'user:alice',
    'user:1000',
    'to:203.0.113.0/24',
    'to:2001:db8::/32',
    'cgroup:user.slice/user-1000.slice',
    'proto:udp',
    'proto:200',
    'dscp:ef',
    'dscp:63',
    'proto:udp+dscp:af41',
    'app:/usr/bin/g++',
    'app:g+++port:443+user:alice',
  ]
  for (const text of texts) {
    const parsed = parseSelector(text)
    assert.ok(parsed.ok, text)
    assert.equal(formatSelector(parsed.value), text)
  }
  const host = parseSelector('to:203.0.113.9')
  assert.ok(host.ok)
  assert.equal(formatSelector(host.value), 'to:203.0.113.9/32')
})

test('a selector that means nothing is refused with what was wrong', () => {
  for (const text of [
    '',
    'app:',
    'app:bin/curl',
    'port:0',
    'port:90-80',
    'port:http',
    'to:203.0.113.1/24',
    'to:300.0.0.1',
    'user:a b',
    'cgroup:../x',
    'colour:red',
    'proto:x',
    'dscp:64',
    'dscp:gold',
  ]) {
    const parsed = parseSelector(text)
    assert.ok(!parsed.ok, text)
    assert.ok(parsed.reason.includes(text) || text === '', parsed.reason)
  }
})

test('UP-2: a selector matches the flows it names, and none of which it knows too little', () => {
  const dst = parseAddress('203.0.113.9')
  assert.ok(dst.ok)
  const flow: FlowFacts = {
    id: 'a1b2',
    proto: 6,
    dst: dst.value,
    dstPort: 443,
    executable: '/usr/bin/curl',
    uid: 1000,
    user: 'alice',
    cgroup: '/user.slice/user-1000.slice/app.scope',
  }
  for (const [text, expected] of [
    ['all', true],
    ['a1b2', true],
    ['a1b3', false],
    ['app:curl', true],
    ['app:/usr/bin/curl', true],
    ['app:/opt/curl', false],
    ['app:cur', false],
    ['port:443', true],
    ['port:400-442', false],
    ['user:alice', true],
    ['user:1000', true],
    ['user:bob', false],
    ['to:203.0.113.0/24', true],
    ['to:::/0', false],
    ['cgroup:user.slice', true],
    ['cgroup:user', false],
    ['proto:tcp', true],
    ['proto:17', false],
    ['app:curl+port:443+to:203.0.113.9', true],
    ['app:curl,port:80', false],
  ] as const) {
    const selector = parseSelector(text)
    assert.ok(selector.ok, text)
    assert.equal(matches(selector.value, flow), expected, text)
    if (selector.value.kind !== 'all') assert.equal(matches(selector.value, {}), false, text)
  }
})
