import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.util.Arrays;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hive.metastore.DefaultPartitionExpressionProxy;
import org.apache.hadoop.hive.metastore.HiveMetaStore;
import org.apache.hadoop.hive.metastore.events.EventCleanerTask;
import org.apache.hadoop.hive.metastore.IHMSHandler;
import org.apache.hadoop.hive.metastore.RetryingHMSHandler;
import org.apache.hadoop.hive.metastore.TSetIpAddressProcessor;
import org.apache.hadoop.hive.metastore.conf.MetastoreConf;
import org.apache.hadoop.hive.metastore.conf.MetastoreConf.ConfVars;
import org.apache.hadoop.hive.metastore.txn.TxnDbUtil;
import org.apache.hadoop.hive.metastore.txn.TxnStore;
import org.apache.hadoop.hive.metastore.txn.TxnUtils;
import org.apache.thrift.protocol.TBinaryProtocol;
import org.apache.thrift.server.TThreadPoolServer;
import org.apache.thrift.transport.TServerSocket;
import org.apache.thrift.transport.TTransportFactory;

/**
 * A Hive metastore on 127.0.0.1 with its database, Derby, in a directory.
 *
 * <p>Hive's own main listens on every address and expires no locks unless it is to compact tables.
 */
public final class Metastore {
  /**
   * Arguments: directory, port, seconds after which a lock without a heartbeat is void, Hadoop's
   * settings as name=value.
   */
  public static void main(String[] arguments) throws Exception {
    String directory = arguments[0];
    Configuration conf = MetastoreConf.newMetastoreConf();
    MetastoreConf.setVar(conf, ConfVars.CONNECT_URL_KEY,
        "jdbc:derby:;databaseName=" + directory + "/metastore;create=true");
    MetastoreConf.setVar(conf, ConfVars.WAREHOUSE, "file://" + directory + "/warehouse");
    MetastoreConf.setBoolVar(conf, ConfVars.AUTO_CREATE_ALL, true);
    MetastoreConf.setBoolVar(conf, ConfVars.SCHEMA_VERIFICATION, false);
    // The default ones belong to the rest of Hive, which is not here.
    String task = EventCleanerTask.class.getName();
    MetastoreConf.setVar(conf, ConfVars.TASK_THREADS_ALWAYS, task);
    MetastoreConf.setVar(conf, ConfVars.TASK_THREADS_REMOTE_ONLY, task);
    MetastoreConf.setVar(
        conf, ConfVars.EXPRESSION_PROXY_CLASS, DefaultPartitionExpressionProxy.class.getName());
    MetastoreConf.setTimeVar(conf, ConfVars.TXN_TIMEOUT, Long.parseLong(arguments[2]), TimeUnit.SECONDS);
    for (String setting : Arrays.asList(arguments).subList(3, arguments.length)) {
      String[] parts = setting.split("=", 2);
      conf.set(parts[0], parts[1]);
    }
    try {
      TxnDbUtil.prepDb(conf);
    } catch (Exception e) {
      // Derby says so of tables that it has already; a lock would fail otherwise.
      System.err.println("preparing the tables of locks: " + e);
    }
    HiveMetaStore.HMSHandler handler = new HiveMetaStore.HMSHandler("metastore", conf, false);
    IHMSHandler retrying = RetryingHMSHandler.getProxy(conf, handler, false);
    TxnStore locks = TxnUtils.getTxnStore(conf);
    ScheduledExecutorService housekeeper = Executors.newSingleThreadScheduledExecutor();
    housekeeper.scheduleWithFixedDelay(locks::performTimeOuts, 200, 200, TimeUnit.MILLISECONDS);
    ServerSocket socket = new ServerSocket();
    socket.bind(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), Integer.parseInt(arguments[1])));
    TServerSocket listener =
        new TServerSocket(new TServerSocket.ServerSocketTransportArgs().serverSocket(socket));
    new TThreadPoolServer(
            new TThreadPoolServer.Args(listener)
                .processor(new TSetIpAddressProcessor<>(retrying))
                .transportFactory(new TTransportFactory())
                .protocolFactory(new TBinaryProtocol.Factory()))
        .serve();
  }
}
