// Gives the browser the caller's token, as operators' extensions do: a header in host mode, the
// password in proxy mode. Then, and not before, opens the page.

const KINDS = ['main_frame', 'sub_frame', 'script', 'stylesheet', 'image', 'xmlhttprequest', 'websocket', 'other'];

async function begin() {
  const { url, token, pac } = await (await fetch(chrome.runtime.getURL('call.json'))).json();
  if (pac) {
    // The browser itself answers no challenge when it fetches a PAC file.
    const script = await fetch(pac, { headers: { authorization: `Bearer ${token}` } });
    const value = { mode: 'pac_script', pacScript: { data: await script.text() } };
    await chrome.proxy.settings.set({ value });
    const credentials = { authCredentials: { username: 'x', password: token } };
    chrome.webRequest.onAuthRequired.addListener(
      ({ isProxy }, answer) => answer(isProxy ? credentials : {}),
      { urls: ['<all_urls>'] },
      ['asyncBlocking'],
    );
  } else {
    const header = 'culvert-authorization';
    const requestHeaders = [{ header, operation: 'set', value: `Bearer ${token}` }];
    const action = { type: 'modifyHeaders', requestHeaders };
    const rule = { id: 1, action, condition: { resourceTypes: KINDS } };
    await chrome.declarativeNetRequest.updateSessionRules({ addRules: [rule] });
  }
  await chrome.tabs.create({ url });
}

begin();
